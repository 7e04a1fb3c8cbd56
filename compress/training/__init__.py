"""The training loop: objective, optimiser, precision, checkpoints."""
