"""The data scaling law: forms, fit, uncertainty and optimum."""
