"""Shared parts of search and retraining: Lightning's trainer, checkpoints, the loss of a batch, feature extraction."""
