"""Inlay trains, fine-tunes and grounds language and vision-language models."""

__version__ = "0.1.0"
