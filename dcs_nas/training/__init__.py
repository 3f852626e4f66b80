"""What search and retraining share: Lightning's trainer, checkpoints, the loss of a batch, feature extraction."""
