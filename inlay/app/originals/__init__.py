"""What the originals, XTuner 0.1.x with MMEngine and F-LMM, would do with a config."""
