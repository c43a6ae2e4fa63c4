"""Training: loop, trainer, optimizers, validation, checkpoints, metrics, plots."""
