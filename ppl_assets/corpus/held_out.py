"""Which documents losses are measured on: curated test text, or a share held out before anything is scored."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ppl_assets.corpus.cleaning import Deduplicator, Signature, normalize, signature, text_hash
from ppl_assets.corpus.errors import TruncatedFile
from ppl_assets.corpus.files import bucket_of, list_files
from ppl_assets.corpus.leaks import TestGuard
from ppl_assets.corpus.readers import read_documents
from ppl_assets.corpus.rows import Document
from ppl_assets.study import Study, partition_key


@dataclass(frozen=True)
class TestDocument:
    """A document that is never trained on; a row of ``tables.TEST_DOCUMENTS``.

    Attributes:
        doc_id: as in ``Document``.
        corpus: corpus partition.
        split: test (domain loss) or general (forgetting).
        text: the normalized text.
        text_hash: its 128-bit hash.
        signature: its MinHash signature, uint32 of shape (permutations,); None where a stored row is read without it.
    """

    doc_id: str
    corpus: str
    split: str
    text: str
    text_hash: str
    signature: Signature | None = None

    @property
    def characters(self) -> int:
        """Length of the normalized text."""
        return len(self.text)


@dataclass(frozen=True)
class TestSet:
    """The test and general documents of a study, as the pipeline needs them.

    Attributes:
        hashes: text hash by document id.
        splits: test or general, by document id.
        guard: recognizes their text in candidates.
    """

    hashes: Mapping[str, str]
    splits: Mapping[str, str]
    guard: TestGuard
    known_hashes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "known_hashes", frozenset(self.hashes.values()))

    @classmethod
    def of(cls, documents: Iterable[TestDocument], study: Study) -> "TestSet":
        """From selected or stored test documents, one at a time: their texts are not held."""
        hashes: dict[str, str] = {}
        splits: dict[str, str] = {}

        def texts() -> Iterator[str]:
            for document in documents:
                hashes[document.doc_id] = document.text_hash
                splits[document.doc_id] = document.split
                yield document.text

        guard = TestGuard.from_texts(texts(), study.chunks)
        return cls(hashes, splits, guard)

    def split_of(self, doc_id: str, text_hash: str) -> str:
        """The split of a document; empty for any other, and for one whose text has changed since it was held out."""
        return self.splits[doc_id] if self.hashes.get(doc_id) == text_hash else ""


def select_test_documents(study: Study, drawn: Iterable[TestDocument] | None = None) -> Iterator[TestDocument]:
    """The documents to hold out, exact and near duplicates among them removed (the first stays).

    Split ``test``: every document of the corpora of role ``test``; where there is none, the candidate documents whose
    text hash falls below ``held_out.test_share``. Split ``general``: those of role ``general`` below
    ``held_out.general_share``. The hash is of the normalized text: copies of a document fall on the same side wherever
    they lie, and new documents move no old one. Rejected rows are passed over.

    Args:
        study: the study.
        drawn: documents of split ``test`` that were drawn before and stay; None draws them now.

    Raises:
        TruncatedFile: a file of role ``test`` or ``general`` is damaged. One of a candidate corpus is passed over from
            where it breaks: its own partition fails by name, and no other has to.
    """
    seen = Deduplicator(study.chunks.near_duplicate_threshold, study.chunks.permutations)
    role, share = ("test", 1.0) if study.has_target else ("candidate", study.held_out.test_share)
    yield from _below(study, "test", role, share, seen) if drawn is None else _remembered(study, drawn, seen)
    yield from _below(study, "general", "general", study.held_out.general_share, seen)


def no_test_document(study: Study) -> str:
    """Why there is nothing to measure the test loss on, and what to do."""
    if study.has_target:
        names = ", ".join(study.with_role("test"))
        return f"corpora of role = 'test' ({names}) hold no document with text; name a path or text_field that does."
    read = sum(1 for _ in documents_of(study, "candidate"))
    return (
        f"none of {read:,} candidate documents is held out at held_out.test_share = {study.held_out.test_share:g}; "
        "raise held_out.test_share, or name a corpus of role = 'test'."
    )


def documents_of(study: Study, role: str) -> Iterator[tuple[str, Document]]:
    """Every document of the corpora of a role, with its partition; raises what ``select_test_documents`` does."""
    for name, settings in study.with_role(role).items():
        for file in list_files(settings.model_copy(update={"buckets": 1})):
            partition = partition_key(name, bucket_of(file.relative, settings.buckets), settings.buckets)
            try:
                for row in read_documents(name, [file], settings):
                    if isinstance(row, Document):
                        yield partition, row
            except TruncatedFile:
                if role != "candidate":
                    raise


def _below(study: Study, split: str, role: str, share: float, seen: Deduplicator) -> Iterator[TestDocument]:
    """The new documents of a role whose text hash falls below a share of all hashes."""
    for partition, document in documents_of(study, role) if share > 0 else ():
        text = normalize(document.text)
        digest = text_hash(text)
        if not text or int(digest[:16], 16) >= share * 2**64:
            continue
        minhash = signature(text, study.chunks.shingle, study.chunks.permutations)
        if seen.add(digest, minhash) == "new":
            yield TestDocument(document.doc_id, partition, split, text, digest, minhash)


def _remembered(study: Study, drawn: Iterable[TestDocument], seen: Deduplicator) -> Iterator[TestDocument]:
    """Documents drawn before, with their signatures; later ones are compared with them."""
    for document in drawn:
        minhash = signature(document.text, study.chunks.shingle, study.chunks.permutations)
        seen.add(document.text_hash, minhash)
        yield replace(document, signature=minhash)
