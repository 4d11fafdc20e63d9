"""MGM (Mini-Gemini, arXiv 2403.18814): two vision towers in front of one language model."""
