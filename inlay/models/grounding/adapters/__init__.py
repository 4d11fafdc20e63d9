"""One file per multimodal model: how it is run, and what of it is looked at."""
