"""Which documents losses are measured on: curated test text, or a share held out before anything is scored."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ppl_assets.corpus.cleaning import Deduplicator, Signature, normalize, signature, text_hash
from ppl_assets.corpus.files import SourceFile, bucket_of, list_files
from ppl_assets.corpus.leaks import TestGuard
from ppl_assets.corpus.readers import read_documents
from ppl_assets.corpus.rows import Document
from ppl_assets.study import CorpusSection, Study


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


def select_test_documents(study: Study) -> Iterator[TestDocument]:
    """The documents to hold out, exact and near duplicates among them removed (the first stays).

    Split ``test``: every document of the corpora of role ``test``; where there is none, the candidate documents whose
    text hash falls below ``held_out.test_share``. Split ``general``: those of role ``general`` below
    ``held_out.general_share``. The hash is of the normalized text: copies of a document fall on the same side wherever
    they lie, and new documents move no old one. Rejected rows are passed over.
    """
    seen = Deduplicator(study.chunks.near_duplicate_threshold, study.chunks.permutations)
    test_role, test_share = ("test", 1.0) if study.has_target else ("candidate", study.held_out.test_share)
    plan = (("test", test_role, test_share), ("general", "general", study.held_out.general_share))
    for split, role, share in plan:
        for name, settings in study.with_role(role).items():
            files = _all_files(settings) if share > 0 else []
            for document in _documents(name, files, settings):
                text = normalize(document.text)
                digest = text_hash(text)
                if not text or int(digest[:16], 16) >= share * 2**64:
                    continue
                minhash = signature(text, study.chunks.shingle, study.chunks.permutations)
                if seen.add(digest, minhash) == "new":
                    partition = _partition(name, settings, document.source)
                    yield TestDocument(document.doc_id, partition, split, text, digest, minhash)


def _all_files(settings: CorpusSection) -> list[SourceFile]:
    """The files of all buckets."""
    return list_files(settings.model_copy(update={"buckets": 1}))


def _documents(name: str, files: Iterable[SourceFile], settings: CorpusSection) -> Iterator[Document]:
    return (row for row in read_documents(name, files, settings) if isinstance(row, Document))


def _partition(name: str, settings: CorpusSection, source: str) -> str:
    """The corpus partition of a file, named as in ``Study.corpus_partitions``."""
    return name if settings.buckets == 1 else f"{name}-{bucket_of(source, settings.buckets):03d}"
