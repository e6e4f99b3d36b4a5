"""Files in, clean token chunks out."""
