"""The frozen base model, the scorer, and the landscape of chunk perplexities."""
