"""Corpora with known rubbish in them: clean prose of installed packages, and a given share of planted noise.

Belongs here: what is planted, and the study over it. Does not belong here: what is measured (``strategies.py``).

Clean text is docstrings of scientific packages; the test text is docstrings of other parts of the same packages. What
is planted comes in equal parts, by characters: words of the clean text shuffled across documents (``shuffled``),
licence and cookie sentences over and over (``boilerplate``), exact and near copies of a few documents (``copies``) and
tables of numbers (``tables``). Every kind is a corpus of its own, so that what a selection took of it can be counted.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ppl_assets.corpus.files import list_files
from ppl_assets.corpus.readers import read_documents
from ppl_assets.corpus.rows import Document
from ppl_assets.sections import CorpusSection
from ppl_assets.study import resolve_location

SET_ASIDE = {
    "scipy": ("stats", "signal"),
    "numpy": ("ma", "polynomial"),
    "sympy": ("physics", "stats"),
    "networkx": ("algorithms/centrality", "algorithms/flow"),
    "matplotlib": ("axes",),
}
"""Parts of each package whose docstrings are the test text; the others' are the clean candidates."""

TARGET_CHARACTERS = 400_000
COPIED_DOCUMENTS = 20
NEAR = 0.06
"""Share of words exchanged in a near copy: 5-word shingles then agree to about 0.58, below the threshold of 0.8."""

POINTS = 6
TEST_TOKENS, GENERAL_TOKENS = 8_192, 2_048

SENTENCES = """\
Copyright {year} {owner}. All rights reserved.
Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with it.
You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
Unless required by applicable law or agreed to in writing, software distributed under the License is distributed
on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and limitations under the License.
This source code is licensed under the BSD-style license found in the LICENSE file in the root directory of this tree.
Redistribution and use in source and binary forms, with or without modification, are permitted provided that
THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT.
This file was automatically generated; do not edit it by hand, since any change will be overwritten.
We use cookies to improve your experience on this site; by continuing to browse you accept our cookie policy.
Share this page: Facebook, Twitter, Reddit, LinkedIn, e-mail. {number} people like this.
Last updated in {year}. Page {number} of {other}. Previous. Next. Home. Contact. Sitemap. Terms of use.
Subscribe to our newsletter and get {number} % off your first order.
""".splitlines()
"""Licences, which any base model knows by heart, this one from its own general text; and the rims of web pages."""
OWNERS = (
    "The HuggingFace Team",
    "Facebook, Inc. and its affiliates",
    "Google LLC",
    "the authors",
    "Example Corporation",
)

Maker = Callable[[np.random.Generator, Sequence[str]], Iterator[str]]


def _shuffled(rng: np.random.Generator, clean: Sequence[str]) -> Iterator[str]:
    words = np.array([word for text in clean for word in text.split()], dtype=object)
    while True:
        length = len(clean[int(rng.integers(len(clean)))].split())
        yield " ".join(words[rng.integers(len(words), size=max(length, 40))])


def _boilerplate(rng: np.random.Generator, _clean: Sequence[str]) -> Iterator[str]:
    while True:
        chosen = rng.choice(len(SENTENCES), size=int(rng.integers(20, 60)))
        year, number, other = (int(rng.integers(low, high)) for low, high in ((1990, 2026), (2, 90), (90, 400)))
        owner = OWNERS[int(rng.integers(len(OWNERS)))]
        yield " ".join(SENTENCES[i].format(year=year, owner=owner, number=number, other=other) for i in chosen)


def _copies(rng: np.random.Generator, clean: Sequence[str]) -> Iterator[str]:
    long = [text for text in clean if len(text) > 1500][:COPIED_DOCUMENTS]
    words = [word for text in clean[:200] for word in text.split()]
    while True:
        copied = long[int(rng.integers(len(long)))]
        if rng.random() < 0.5:
            yield copied
            continue
        parts = copied.split(" ")
        for place in np.flatnonzero(rng.random(len(parts)) < NEAR):
            parts[place] = words[int(rng.integers(len(words)))]
        yield " ".join(parts)


def _tables(rng: np.random.Generator, _clean: Sequence[str]) -> Iterator[str]:
    while True:
        columns, rows = int(rng.integers(3, 9)), int(rng.integers(20, 60))
        separator = ("\t", ",", ";", " ")[int(rng.integers(4))]
        scale = 10.0 ** rng.integers(-2, 5, size=columns)
        lines = [separator.join(f"x{i}" for i in range(columns))]
        lines += [separator.join(f"{value:.3f}" for value in rng.standard_normal(columns) * scale) for _ in range(rows)]
        yield "\n".join(lines)


KINDS: dict[str, Maker] = {
    "shuffled": _shuffled,
    "boilerplate": _boilerplate,
    "copies": _copies,
    "tables": _tables,
}


def package_documents(*, set_aside: bool) -> list[str]:
    """Docstrings of the packages: the parts set aside for the test text, or all others; one text a module."""
    texts = []
    for package, parts in SET_ASIDE.items():
        paths = [f"package:{package}/{part}" for part in parts] if set_aside else [f"package:{package}"]
        exclude = ["**/tests/**", *([] if set_aside else [f"{part}/**" for part in parts])]
        settings = CorpusSection(
            path=[resolve_location(path, Path()) for path in paths], format="docstrings", exclude=exclude
        )
        found = read_documents(package, list_files(settings), settings)
        texts += [document.text for document in found if isinstance(document, Document)]
    return texts


def _up_to(texts: Iterator[str], characters: int) -> list[str]:
    """As many texts as reach a number of characters."""
    taken, total = [], 0
    for text in texts:
        if total >= characters:
            break
        taken.append(text)
        total += len(text)
    return taken


def planted(share: float, characters: int, seed: int) -> dict[str, list[str]]:
    """Texts by corpus: ``clean``, ``target`` and each of :data:`KINDS`.

    Args:
        share: planted characters over all candidate characters, at least 0 and below 1.
        characters: of clean text at most.
        seed: of the choice of clean documents and of what is planted.
    """
    rng = np.random.default_rng(seed)
    found = package_documents(set_aside=False)
    clean = _up_to((found[i] for i in rng.permutation(len(found))), characters)
    each = int(sum(map(len, clean)) * share / (1 - share) / len(KINDS))
    made = {kind: _up_to(maker(rng, clean), each) for kind, maker in KINDS.items()}
    aside = package_documents(set_aside=True)
    target = _up_to((aside[i] for i in rng.permutation(len(aside))), TARGET_CHARACTERS)
    return {"clean": clean, "target": target, **{kind: texts for kind, texts in made.items() if texts}}


STUDY = """[study]
name = "planted-{percent}"
seed = {seed}

[storage]
root = "data"

{corpora}
[corpora.target]
role = "test"
path = "corpora/target.jsonl"

[corpora.general]
role = "general"
path = ["stdlib:", "package:torch", "package:transformers", "package:dagster"]
sample = 0.15
include = ["**/*.py", "**/*.txt", "**/*.rst"]
exclude = ["site-packages/**", "test/**", "idlelib/**", "lib2to3/**", "config-*/**"]

[held_out]
general_share = 0.03
test_tokens = {test_tokens}
general_tokens = {general_tokens}

[base_model]
source = "recipe"

[base_model.recipe]
vocabulary = 4096
hidden = 128
layers = 4
heads = 4
context = 256
tokens = 2_000_000  # with a quarter of it rubbish and prose had the same perplexity, and nothing could be gained

[chunks]
tokens = 128

[trials]
tokens = {tokens}
span = 16
points = {points}
learning_rate = 1e-3
batch_tokens = 512
mode = "sequential"  # at 10 % the design's 14 trials alone do not tell enough
max_tokens = {max_tokens}

[law]
bootstrap = 100

[selection]
tokens = {tokens}

[strategies]
rivals = {rivals}
seeds = {seeds}
points = 4
"""


def write_study(
    folder: Path,
    share: float,
    *,
    characters: int,
    tokens: int,
    trials: int,
    seeds: int,
    rivals: Sequence[str],
    seed: int,
) -> Path:
    """Write corpora and study file; the file's path.

    Args:
        folder: made if absent.
        share: of planted characters.
        characters: of clean text.
        tokens: of a trial, of the selection and of each strategy's run.
        trials: most trials.
        seeds: training seeds a strategy.
        rivals: strategies beside the selection.
        seed: of corpora and study.
    """
    texts = planted(share, characters, seed)
    (folder / "corpora").mkdir(parents=True, exist_ok=True)
    for name, documents in texts.items():
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents]
        (folder / "corpora" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    candidates = [name for name in texts if name != "target"]
    path = folder / "study.toml"
    path.write_text(
        STUDY.format(
            percent=round(100 * share),
            seed=seed,
            corpora="\n".join(f'[corpora.{name}]\npath = "corpora/{name}.jsonl"\n' for name in candidates),
            tokens=tokens,
            points=POINTS,
            max_tokens=trials * (tokens + (POINTS + 1) * (TEST_TOKENS + GENERAL_TOKENS)),
            test_tokens=TEST_TOKENS,
            general_tokens=GENERAL_TOKENS,
            rivals=json.dumps(list(rivals)),
            seeds=seeds,
        ),
        encoding="utf-8",
    )
    return path
