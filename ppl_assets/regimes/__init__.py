"""What subsets can be reached, how to draw one, and which to try."""
