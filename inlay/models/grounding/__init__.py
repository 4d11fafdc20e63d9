"""Masks for words: a frozen multimodal model, what its attention shows, and what learns from it."""
