"""Training of a predictor, and the checkpoint and model card that it leaves."""
