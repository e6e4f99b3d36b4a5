import json
import random

import pyarrow as pa
import pytest

from ppl_assets.corpus import held_out, pipeline
from ppl_assets.corpus.errors import CorpusError, TruncatedFile
from ppl_assets.corpus.leaks import TestGuard as Guard
from ppl_assets.corpus.leaks import near_test_violations
from ppl_assets.tables import CHUNKS, CLEANING_COUNTS, REJECTED_ROWS

NEXT_TO_NOTHING = {"test_share": 1e-9}
"""A study without target holds something out; with this share no document of these tests."""


def prose(seed, words=120):
    draw = random.Random(seed)  # repeatable text
    return " ".join(f"{draw.choice('bcdfgh')}{draw.choice('aeiou')}{draw.randrange(300)}" for _ in range(words))


def write(folder, texts):
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {"path": str(folder)}


def test_set(study):
    selected = list(held_out.select_test_documents(study))
    return selected, held_out.TestSet.of(selected, study)


test_set.__test__ = False


def build(study, partition, tokenizer, tests=None):
    stream = pipeline.build_chunks(study, partition, tokenizer, "tok", tests or test_set(study)[1])
    rows = pa.Table.from_batches(list(stream), CHUNKS.schema).to_pylist()
    counts = {row["outcome"]: row["documents"] for row in stream.counts.to_pylist()}
    return stream, rows, counts


def test_batches_match_the_declared_tables_and_every_document_has_one_outcome(tmp_path, study, tokenizer):
    texts = {f"{number:02d}.txt": prose(number) for number in range(20)}
    texts |= {"dup.txt": prose(3), "near.txt": prose(4) + " end", "tiny.txt": "tiny", "void.txt": "", "bin.txt": "\0"}
    made = study({"c": write(tmp_path / "c", texts)}, held_out={"test_share": 0.3})
    stream, rows, counts = build(made, "c", tokenizer)
    assert stream.rejected.schema == REJECTED_ROWS.schema
    assert stream.counts.schema == CLEANING_COUNTS.schema
    assert stream.rejected.to_pylist()[0]["reason"] == "binary_file"
    assert sum(number for outcome, number in counts.items() if not outcome.endswith("_chunk")) == 25
    assert counts["rejected:binary_file"] == counts["empty"] == counts["too_short"] == 1
    assert {row["split"] for row in rows} == {"candidate", "test"}
    assert all(row["n_tokens"] == len(row["tokens"]) == 16 for row in rows)
    assert all(row["n_bytes"] == len(row["text"].encode()) for row in rows)
    assert len({row["chunk_id"] for row in rows}) == len(rows)


def test_the_same_files_give_the_same_rows_and_a_new_file_changes_no_old_one(tmp_path, study, tokenizer):
    texts = {f"{number:02d}.txt": prose(number) for number in range(8)}
    made = study({"c": write(tmp_path / "c", texts)}, held_out=NEXT_TO_NOTHING)
    _, first, _ = build(made, "c", tokenizer)
    assert build(made, "c", tokenizer)[1] == first
    write(tmp_path / "c", {"05-new.txt": prose(100)})
    later = build(made, "c", tokenizer)[1]
    assert [row for row in later if row["source"] != "05-new.txt"] == first


def test_without_a_test_corpus_documents_are_held_out_by_their_text(tmp_path, study):
    texts = {f"{number}.txt": prose(number) for number in range(200)}
    made = study({"c": write(tmp_path / "c", texts)}, held_out={"test_share": 0.2})
    first = {d.doc_id: d.text_hash for d in held_out.select_test_documents(made)}
    assert 20 < len(first) < 60
    write(tmp_path / "c", {"another.txt": prose(1000)})
    later = {d.doc_id for d in held_out.select_test_documents(made)}
    assert set(first) <= later <= {*first, "c:another.txt:1"}


def test_a_named_test_corpus_and_a_share_of_the_general_one_are_held_out(tmp_path, study, tokenizer):
    corpora = {
        "c": write(tmp_path / "c", {"a.txt": prose(1)}),
        "t": write(tmp_path / "t", {"x.txt": prose(2), "y.txt": prose(2), "z.txt": prose(2) + " end"})
        | {"role": "test"},
        "g": write(tmp_path / "g", {f"{n}.txt": prose(50 + n) for n in range(60)}) | {"role": "general"},
    }
    made = study(corpora, held_out={"general_share": 0.3})
    selected, tests = test_set(made)
    assert [d.doc_id for d in selected if d.split == "test"] == ["t:x.txt:1"]
    general = [d for d in selected if d.split == "general"]
    assert 5 < len(general) < 35
    assert {d.corpus for d in general} == {"g"}
    counts = build(made, "t", tokenizer, tests)[2]
    assert (counts["held_out"], counts["exact_duplicate"], counts["near_duplicate"]) == (1, 1, 1)
    _, rows, counts = build(made, "g", tokenizer, tests)
    assert counts["held_out"] == len(general)
    assert counts["not_held_out"] == 60 - len(general)
    assert {row["split"] for row in rows} == {"general"}


def test_copies_and_quotations_of_a_test_document_are_kept_out(tmp_path, study, tokenizer):
    docstring = prose(2, 70)
    source = "\n\n".join(["def f(x):", prose(7, 400), f'"""{docstring}"""', prose(8, 400)])
    corpora = {
        "c": write(tmp_path / "c", {"copy.txt": docstring, "near.txt": docstring + " end", "file.py": source}),
        "t": write(tmp_path / "t", {"x.txt": docstring}) | {"role": "test"},
    }
    made = study(corpora, chunks={"tokens": 128})
    _, tests = test_set(made)
    _, rows, counts = build(made, "c", tokenizer, tests)
    assert counts["near_test"] == 2
    assert counts["test_overlap_chunk"] >= 2
    assert {row["source"] for row in rows} == {"file.py"}
    candidates = [(row["chunk_id"], row["text"]) for row in rows]
    assert not list(near_test_violations(candidates, Guard.from_texts([docstring], made.chunks)))
    _, leaky, _ = build(made, "c", tokenizer, held_out.TestSet.of([], made))
    violations = near_test_violations([(row["chunk_id"], row["text"]) for row in leaky], tests.guard)
    assert len(list(violations)) >= counts["test_overlap_chunk"]


def test_a_held_out_document_whose_text_has_changed_is_an_ordinary_candidate(tmp_path, study, tokenizer):
    made = study({"c": write(tmp_path / "c", {"a.txt": prose(1)})})
    changed = held_out.TestDocument("c:a.txt:1", "c", "test", prose(9), "0" * 32)
    tests = held_out.TestSet.of([changed], made)
    _, rows, _ = build(made, "c", tokenizer, tests)
    assert {row["split"] for row in rows} == {"candidate"}


def test_the_same_chunk_of_two_documents_is_kept_once(tmp_path, study, tokenizer):
    header = prose(1, 60)
    texts = {f"{n}.txt": f"{header}\n\n{prose(10 + n, 200)}" for n in range(3)}
    made = study({"c": write(tmp_path / "c", texts)}, held_out=NEXT_TO_NOTHING)
    _, rows, counts = build(made, "c", tokenizer)
    assert counts["kept"] == 3
    assert counts["duplicate_chunk"] > 2
    assert len({row["chunk_id"] for row in rows}) == len(rows)


def test_buckets_together_hold_what_the_whole_corpus_holds(tmp_path, study, tokenizer):
    settings = write(tmp_path / "c", {f"{n}.txt": prose(n) for n in range(12)})
    whole = build(study({"c": settings}), "c", tokenizer)[1]
    divided = study({"c": settings | {"buckets": 3}})
    parts = [build(divided, partition, tokenizer)[1] for partition in divided.corpus_partitions()]
    assert sorted(row["chunk_id"] for rows in parts for row in rows) == sorted(row["chunk_id"] for row in whole)
    assert {row["corpus"] for rows in parts for row in rows} == {"c-000", "c-001", "c-002"}
    assert {row["doc_id"] for rows in parts for row in rows} == {row["doc_id"] for row in whole}


def test_a_damaged_file_raises_and_leaves_no_counts(tmp_path, study, tokenizer):
    settings = write(tmp_path / "c", {"a.txt": prose(1)})
    (tmp_path / "c" / "b.jsonl.gz").write_bytes(b"\x1f\x8b\x08" + bytes(20))
    made = study({"c": settings})
    stream = pipeline.build_chunks(made, "c", tokenizer, "tok", held_out.TestSet.of([], made))
    with pytest.raises(TruncatedFile):
        list(stream)
    with pytest.raises(CorpusError, match="not all read yet"):
        _ = stream.counts


def test_a_damaged_candidate_file_is_passed_over_when_test_documents_are_drawn(tmp_path, study):
    texts = {f"{number}.txt": prose(number) for number in range(40)}
    made = study({"c": write(tmp_path / "c", texts)}, held_out={"test_share": 0.3})
    whole = [d.doc_id for d in held_out.select_test_documents(made)]
    (tmp_path / "c" / "0-damaged.jsonl.gz").write_bytes(b"\x1f\x8b\x08" + bytes(20))
    assert [d.doc_id for d in held_out.select_test_documents(made)] == whole


@pytest.mark.parametrize("role", ["test", "general"])
def test_a_damaged_file_of_test_or_general_text_is_an_error(tmp_path, study, role):
    corpora = {
        "c": write(tmp_path / "c", {"a.txt": prose(1)}),
        "other": write(tmp_path / "other", {"b.txt": prose(2)}) | {"role": role},
    }
    (tmp_path / "other" / "damaged.jsonl.gz").write_bytes(b"\x1f\x8b\x08" + bytes(20))
    with pytest.raises(TruncatedFile, match="damaged"):
        list(held_out.select_test_documents(study(corpora)))


def test_chunks_as_long_as_the_context_are_allowed_and_longer_ones_are_not():
    pipeline.require_context(128, 128, "m")
    with pytest.raises(CorpusError, match=r"chunks\.tokens = 129 exceeds the context of base model m, 128 tokens"):
        pipeline.require_context(129, 128, "m")


def test_record_batches_are_bounded_and_progress_is_told(tmp_path, study, tokenizer, monkeypatch):
    monkeypatch.setattr("ppl_assets.corpus.record_batches.BATCH_ROWS", 10)
    monkeypatch.setattr("ppl_assets.corpus.pipeline.BATCH_CHARACTERS", 2000)
    rows = "".join(json.dumps({"text": prose(number)}) + "\n" for number in range(20))
    made = study({"c": write(tmp_path / "c", {"a.jsonl": rows})}, held_out=NEXT_TO_NOTHING)
    told = []
    tests = held_out.TestSet.of([], made)
    stream = pipeline.build_chunks(made, "c", tokenizer, "tok", tests, lambda *seen: told.append(seen))
    sizes = [batch.num_rows for batch in stream]
    assert set(sizes[:-1]) == {10}
    assert told[-1] == (20, sum(sizes))
    assert told == sorted(told)
