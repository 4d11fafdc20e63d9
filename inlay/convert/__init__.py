"""From checkpoints to what others load: exports, merges, splits, each verified without Inlay."""
