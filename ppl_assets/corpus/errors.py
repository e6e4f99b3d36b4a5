"""What can be wrong with a corpus, each as one sentence: what was given, what is accepted, what to do."""

from ppl_assets.errors import UserError


class CorpusError(UserError):
    """A corpus cannot be read or used as the study describes it. Trying again does not help."""


class TruncatedFile(CorpusError):  # noqa: N818  # the name says it
    """A compressed or Parquet file is damaged or ends too early; always fatal, since rows would be lost silently."""


class BadRow(CorpusError):  # noqa: N818  # the name says it
    """A row cannot be used and the corpus asks for ``on_bad_row = 'fail'``."""
