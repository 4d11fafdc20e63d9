"""Config files: flatten, override, execute, check, build, dump. Nothing here knows a model."""
