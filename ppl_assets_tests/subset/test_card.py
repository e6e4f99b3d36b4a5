"""The dataset card: what it says, that data cannot break it, and that it lets the folder load by itself."""

from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard

from ppl_assets.subset.card import Source, as_markdown, dataset_card
from ppl_assets.subset.export import write_export
from ppl_assets_tests.subset.export_factory import batch, description

ROWS = {"docs": (3, 12), "code-001": (1, 4)}


def head(card: str):
    return DatasetCard(card).data


def lines_with(card: str, text: str) -> list[str]:
    return [line for line in card.splitlines() if text in line]


def test_it_names_every_source_with_its_licence_chunks_and_tokens() -> None:
    card = dataset_card(description(), "sel", ROWS)
    assert "| docs | cc-by-4.0 | 3 | 12 |" in card
    assert "| code | unknown | 1 | 4 |" in card


def test_it_says_what_was_asked_for_what_was_reached_and_where_it_is_from() -> None:
    card = dataset_card(description(), "sel", ROWS)
    assert "| mean perplexity of a chunk | 10.0000 | 10.0100 |" in card
    assert "| tokens | 24 | 16 |" in card
    assert "4 chunks, 16 tokens" in card
    for fact in ("The target was reached to 0.1 %.", "HuggingFaceTB/SmolLM2-135M", "m0", "w0", "5c0", "VERSION => 41"):
        assert fact in card


def test_its_header_holds_licences_that_the_hub_knows() -> None:
    assert head(dataset_card(description(), "sel", ROWS)).license == ["cc-by-4.0", "unknown"]
    assert head(dataset_card(description(), "sel", {"docs": (1, 4)})).license == "cc-by-4.0"
    named = {"CC BY 4.0": "cc-by-4.0", "Ours: ask\nlegal": "other", " ": "unknown", "MIT": "mit"}
    for given, known in named.items():
        card = dataset_card(description(sources=[Source("docs", given, ["docs"])]), "sel", {"docs": (1, 4)})
        assert head(card).license == known


@pytest.mark.parametrize(("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**10, "10B<n<100B")])
def test_its_header_holds_the_size_category(rows: int, size: str) -> None:
    assert head(dataset_card(description(), "sel", {"docs": (rows, rows)})).size_categories == [size]


def test_nothing_in_the_data_breaks_the_card() -> None:
    wild = "a\"b'c|d\n---\n# e: <script>[x](y) `z` \u2028\u202e\x00 *f* _g_ \\ $h$ &amp; {{ i }} {% j %} |"
    told = description(
        study={"study": {"name": wild}, "selection": {"method": "tilt"}, "chunks": {"tokens": 4}},
        sources=[Source(wild, wild, ["docs"])],
        message=wild,
        base_model={"source": wild, "revision": wild, "model_id": "m0", "weights_fingerprint": "w0"},
    )
    plain, card = dataset_card(description(), "sel", {"docs": (1, 4)}), dataset_card(told, "sel", {"docs": (1, 4)})
    assert head(card).pretty_name == f"{wild}, selection sel"
    assert head(card).license == "other"
    body = card[card.index("# Selection") :]
    assert "\u2028" not in body
    assert "<script" not in body.replace(r"\<script", "")
    assert len(lines_with(body, "script")) == 3  # a row of the table, the message, the base model
    assert len([line for line in body.splitlines() if line.startswith("#")]) == len(
        [line for line in plain.splitlines() if line.startswith("#")]
    )


def test_text_is_shown_literally_on_one_line() -> None:
    assert as_markdown("a|b\n*c* `d` \x07e") == r"a\|b \*c\* \`d\` e"


def test_a_local_base_model_is_named_without_its_folders() -> None:
    card = dataset_card(
        description(base_model={**description().base_model, "source": "/somewhere/private/model.gguf"}), "sel", ROWS
    )
    assert "model.gguf" in card
    assert "private" not in card


@pytest.mark.parametrize("shard_tokens", [None, 8])
def test_the_folder_loads_by_itself_in_both_formats(tmp_path: Path, shard_tokens: int | None) -> None:
    texts = list("abcdefghijkl")
    folder = str(write_export(tmp_path, "sel", [batch(texts)], description(), shard_tokens))
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(folder, cache_dir=cache)
    assert list(loaded) == ["train"]
    assert loaded["train"]["text"][:] == texts
    assert loaded["train"]["rank"][:] == list(range(12))
    for options in ({"path": folder, "data_dir": "jsonl"}, {"path": f"{folder}/jsonl"}, {"path": f"{folder}/parquet"}):
        assert datasets.load_dataset(**options, split="train", cache_dir=cache)["text"][:] == texts
    streamed = datasets.load_dataset(folder, split="train", streaming=True)
    assert [row["text"] for row in streamed] == texts


def test_a_replaced_folder_is_not_answered_from_the_cache(tmp_path: Path) -> None:
    def read(text: str, inputs: str) -> list[str]:
        folder = write_export(tmp_path, "sel", [batch([text])], description(inputs=inputs))
        return datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))["text"][:]

    assert read("old", "a") == ["old"]
    assert read("new", "b") == ["new"]
