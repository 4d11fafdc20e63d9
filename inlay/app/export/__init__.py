"""`inlay convert` and `inlay push`: what leaves a run, checked and described."""
