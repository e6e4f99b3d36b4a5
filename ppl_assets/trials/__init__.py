"""Short continual pre-training runs and their test losses."""
