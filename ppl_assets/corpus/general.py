"""The general text that a base model may be pre-trained on: everything of role general that was not held out."""

from collections.abc import Iterator, Set

from ppl_assets.corpus.cleaning import normalize, text_hash
from ppl_assets.corpus.files import list_files
from ppl_assets.corpus.readers import read_documents
from ppl_assets.corpus.rows import Document
from ppl_assets.study import Study


def general_texts(study: Study, held_out: Set[str]) -> Iterator[str]:
    """Normalized texts of role general, in file order, each once.

    Args:
        study: the study.
        held_out: text hashes of documents that were set aside.
    """
    seen = set(held_out)
    for name, settings in study.with_role("general").items():
        files = list_files(settings.model_copy(update={"buckets": 1}))
        for row in read_documents(name, files, settings):
            if not isinstance(row, Document):
                continue
            text = normalize(row.text)
            digest = text_hash(text)
            if text and digest not in seen:
                seen.add(digest)
                yield text
