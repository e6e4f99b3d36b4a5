"""Fixed-length token chunks of one document, each with the exact span of text that its tokens stand for."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from tokenizers import Encoding, Tokenizer

PIECE_CHARACTERS = 500_000
"""A longer document is encoded in pieces of at most this: an encoding takes about 100 bytes of memory a token. No chunk
crosses pieces, so each piece leaves a short tail of half a chunk on average: at 1024 tokens under 0.5 % of the text."""

BATCH_CHARACTERS = 1_000_000
"""Characters encoded at once."""


@dataclass(frozen=True)
class Chunk:
    """A slice of a document's own encoding.

    Attributes:
        chunk_id: 128-bit hash of tokenizer, token ids and text, 32 hexadecimal digits.
        position: number of the chunk in its document, from 0, chunks that are not kept included.
        text: exactly the characters that the tokens stand for.
        tokens: token ids, int32 of shape (n_tokens,), without prefix or special tokens.
        first_token_bytes: UTF-8 bytes of the first token.
        is_kept: full, or not shorter than the shortest chunk asked for.
    """

    chunk_id: str
    position: int
    text: str
    tokens: npt.NDArray[np.int32]
    first_token_bytes: int
    is_kept: bool

    @cached_property
    def n_bytes(self) -> int:
        """Length of the text in UTF-8 bytes."""
        return len(self.text.encode())


def chunk_document(text: str, tokenizer: Any, tokens: int, shortest: int, tokenizer_id: str = "") -> list[Chunk]:
    """The chunks of one normalized document that are kept; see :class:`Chunker`, which serves many documents faster."""
    (chunks,) = Chunker(tokenizer, tokenizer_id, tokens=tokens, shortest=shortest).chunk_many([text])
    return [chunk for chunk in chunks if chunk.is_kept]


class Chunker:
    """Cuts documents into chunks of ``tokens`` tokens.

    Special-token strings in a text are encoded as text, nothing is added in front. A byte-level token can hold part
    of a character; a boundary then moves back to the last token that ends with a character, and the chunk, up to three
    tokens shorter, still counts as full. Where no token inside a chunk does, it is extended to the next one that does
    and not kept. The last chunk of a document is kept from ``shortest`` tokens on. All chunks of a document, kept or
    not, joined, are its text.

    Args:
        tokenizer: fast Hugging Face tokenizer, or ``tokenizers.Tokenizer``; not changed.
        tokenizer_id: fingerprint of the tokenizer, part of chunk ids.
        tokens: chunk length.
        shortest: shortest chunk kept, in tokens.
    """

    def __init__(self, tokenizer: Any, tokenizer_id: str, *, tokens: int, shortest: int) -> None:
        backend: Tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self._tokenizer = Tokenizer.from_str(backend.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.post_processor = None  # it trims spaces from offsets
        self._tokenizer_id = tokenizer_id
        self._size = tokens
        self._shortest = shortest

    def chunk_many(self, texts: Iterable[str]) -> Iterator[list[Chunk]]:
        """All chunks of each normalized text, kept or not, in order; long texts are encoded piece by piece."""
        batch: list[list[str]] = []
        characters = 0
        for text in texts:
            batch.append(list(_pieces(text)))
            characters += len(text)
            if characters >= BATCH_CHARACTERS:
                yield from self._encoded(batch)
                batch, characters = [], 0
        yield from self._encoded(batch)

    def _encoded(self, batch: list[list[str]]) -> Iterator[list[Chunk]]:
        """The chunks of documents given as pieces; documents of one piece are encoded together."""
        whole = [pieces[0] for pieces in batch if len(pieces) == 1]
        encodings = iter(self._tokenizer.encode_batch(whole, add_special_tokens=False))
        for pieces in batch:
            chunks: list[Chunk] = []
            for piece in pieces:
                encoding = (
                    next(encodings) if len(pieces) == 1 else self._tokenizer.encode(piece, add_special_tokens=False)
                )
                chunks.extend(self._cut(piece, encoding, len(chunks)))
            yield chunks

    def _cut(self, text: str, encoding: Encoding, position: int) -> Iterator[Chunk]:
        """The chunks of one piece, numbered from ``position``."""
        ids = np.array(encoding.ids, np.int32)
        begin = 0
        for start, stop in token_spans(encoding, len(ids), self._size):
            is_last = stop == len(ids)
            end = len(text) if is_last else max(begin, _span(encoding, stop - 1)[1])
            length = stop - start
            yield Chunk(
                chunk_id=self._chunk_id(ids[start:stop], text[begin:end]),
                position=position,
                text=text[begin:end],
                tokens=ids[start:stop],
                first_token_bytes=self._first_token_bytes(encoding, start, text, begin),
                is_kept=length <= self._size and (length >= self._shortest or not is_last),
            )
            begin = end
            position += 1

    def _chunk_id(self, ids: npt.NDArray[np.int32], text: str) -> str:
        content = b"\0".join((self._tokenizer_id.encode(), ids.tobytes(), text.encode()))
        return xxhash.xxh3_128_hexdigest(content)

    def _first_token_bytes(self, encoding: Encoding, first: int, text: str, begin: int) -> int:
        """Bytes of a chunk's first token: of its characters, or of its part of one that it shares with the next."""
        end = _span(encoding, first)[1]
        if first + 1 < len(encoding) and _span(encoding, first + 1)[0] < end:
            token = encoding.tokens[first]
            return 1 if token.startswith("<0x") else len(token)  # in byte-level vocabularies a letter is a byte
        return len(text[begin:end].encode())


def token_spans(encoding: Encoding, count: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of chunks in tokens, no boundary inside a character."""

    def is_clean(boundary: int) -> bool:
        return boundary == count or _span(encoding, boundary)[0] >= _span(encoding, boundary - 1)[1]

    start = 0
    while start < count:
        full = min(start + size, count)
        stop = full
        while stop > start and not is_clean(stop):
            stop -= 1
        if stop == start:
            stop = full
            while not is_clean(stop):
                stop += 1
        yield start, stop
        start = stop


def _span(encoding: Encoding, token: int) -> tuple[int, int]:
    """First and end character of a token."""
    span = encoding.token_to_chars(token)
    return span if span is not None else (0, 0)


def _pieces(text: str) -> Iterator[str]:
    """A text cut after a paragraph, else a line, else before a space, else anywhere, into pieces of bounded length."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        limit = start + PIECE_CHARACTERS
        middle = start + PIECE_CHARACTERS // 2
        for mark, shift in (("\n\n", 2), ("\n", 1), (" ", 0)):
            place = text.rfind(mark, middle, limit - shift)
            if place > 0:
                limit = place + shift
                break
        yield text[start:limit]
        start = limit
    yield text[start:]
