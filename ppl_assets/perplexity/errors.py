"""What whoever looks at a model finds wrong with it."""

from ppl_assets.errors import UserError


class ModelError(UserError, ValueError):
    """The model cannot be used as given; the message says what was given, what is accepted and what to do."""
