"""Tuning by Optuna: the space of settings, the study of the trials, the trials as processes."""
