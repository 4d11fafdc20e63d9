"""Pictures: files, and the processors that turn them into tokens and pixels."""
