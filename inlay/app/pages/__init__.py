"""Pages and pictures for people to look at."""
