"""Settings tried by Optuna: their space, the study of the trials, the trials as processes."""
