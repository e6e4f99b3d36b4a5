"""The base of every error that is a message to the person at the keyboard."""


class UserError(Exception):
    """Something a person can mend; the message is one sentence: what was given, what is accepted, what to do."""
