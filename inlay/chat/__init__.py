"""Talk to a model: sessions with history and streamed answers, and the terminal around them."""
