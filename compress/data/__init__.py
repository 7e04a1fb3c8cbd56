"""The recipe's data section: splits, health checks, augmentation, batches."""
