"""Pictures with words and masks: sources, sequences, batches."""
