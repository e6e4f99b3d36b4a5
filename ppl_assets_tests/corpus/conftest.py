"""Small real things that the corpus tests share."""

import os
import tracemalloc

os.environ.setdefault("RAYON_NUM_THREADS", "1")

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ppl_assets.corpus.files import list_files
from ppl_assets.corpus.readers import read_documents
from ppl_assets.sections import CorpusSection
from ppl_assets.study import Study

SENTENCES = [
    f"The {adjective} {noun} {verb} the {other} near line {number}."
    for number, (adjective, noun, verb, other) in enumerate(
        [
            ("quick", "fox", "jumps over", "dog"),
            ("slow", "river", "feeds", "lake"),
            ("old", "model", "predicts", "token"),
        ]
        * 20
    )
]


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE with a special token, a truncation and an offset-trimming post-processor, all to be ignored."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(SENTENCES, trainer)
    made.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    made.enable_truncation(5)
    return made


@pytest.fixture
def corpus():
    """Settings of a corpus at a path."""
    return lambda path, **given: CorpusSection(path=path if isinstance(path, list) else str(path), **given)


@pytest.fixture
def read():
    """Everything read from a corpus."""
    return lambda settings, name="c": list(read_documents(name, list_files(settings), settings))


@pytest.fixture
def study():
    """A study of some corpora with short chunks."""

    def make(corpora, *, chunks=None, **sections):
        return Study(
            corpora=corpora,
            base_model={"source": "any"},
            selection={"share": 0.5},
            chunks={"tokens": 16, **(chunks or {})},
            **sections,
        )

    return make


@pytest.fixture
def peak_memory():
    """The result of a call and the most memory that Python objects took during it, in bytes."""

    def measure(call):
        tracemalloc.start()
        try:
            return call(), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure
