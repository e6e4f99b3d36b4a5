"""What reading yields: documents, rows that cannot be one, and the checks that every format shares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ppl_assets.sections import CorpusSection


@dataclass(frozen=True)
class Document:
    """A document as read, before cleaning.

    Attributes:
        doc_id: corpus, file and position or id.
        text: its text, unchanged.
        source: file, relative to the corpus.
        position: line (JSONL, CSV) or row (Parquet), from 1; 1 where the file is the document.
    """

    doc_id: str
    text: str
    source: str
    position: int


@dataclass(frozen=True)
class RejectedRow:
    """A row, or a whole file (position None), that cannot be a document, and why.

    Reasons: invalid_utf8, invalid_json, invalid_csv, invalid_python, missing_field, null_text, not_text, over_long,
    binary_file, empty.
    """

    source: str
    position: int | None
    reason: str
    detail: str


@dataclass(frozen=True)
class Row:
    """A row whose text is good.

    Attributes:
        position: line or row, from 1.
        text: the text.
        identity: value of ``id_field``; None where there is none.
    """

    position: int
    text: str
    identity: str | None = None


@dataclass(frozen=True)
class Plan:
    """How a file is read: the corpus' settings, and which positions sampling leaves out unread."""

    settings: CorpusSection
    skips: Callable[[int], bool]

    @property
    def limit(self) -> int:
        """Longest document, in characters."""
        return self.settings.max_characters

    def check(self, source: str, position: int, value: Any, identity: Any = None) -> Row | RejectedRow:
        """A text value as a row, or the reason why it is none.

        Args:
            source: file, relative to the corpus.
            position: line or row, from 1.
            value: what the text field holds; bytes are decoded as UTF-8.
            identity: what the id field holds.
        """
        if value is None:
            return RejectedRow(source, position, "null_text", f"{self.settings.text_field!r} is null.")
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                return RejectedRow(source, position, "invalid_utf8", f"The text is not UTF-8: {error}.")
        if not isinstance(value, str):
            kind = type(value).__name__
            return RejectedRow(source, position, "not_text", f"{self.settings.text_field!r} holds {kind}, not text.")
        if len(value) > self.limit:
            return self.over_long(source, position, f"{len(value):,} characters")
        if not value or value.isspace():
            return RejectedRow(source, position, "empty", "The text is empty.")
        return Row(position, value, None if identity is None else str(identity))

    def over_long(self, source: str, position: int, size: str) -> RejectedRow:
        """The rejection of a row that exceeds ``max_characters``."""
        return RejectedRow(source, position, "over_long", f"{size}; max_characters = {self.limit:,}.")
