"""When things run: jobs, conditions, and the command-line run."""
