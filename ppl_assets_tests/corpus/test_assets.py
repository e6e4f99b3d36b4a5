"""The corpus assets in Dagster, on small files and a lake of their own."""

import dagster as dg
import polars as pl
import pytest

from ppl_assets.corpus import assets
from ppl_assets.corpus.errors import CorpusError
from ppl_assets.corpus.stored import stored_test_set
from ppl_assets.lake import LakeError, Provenance
from ppl_assets.resources import Platform
from ppl_assets.tables import BASE_MODEL, TEST_DOCUMENTS
from ppl_assets_tests.corpus.test_pipeline import prose, write

STUDY = """
[corpora.notes]
path = "notes"
buckets = 2
[corpora.general]
role = "general"
path = "general"
[held_out]
test_share = 0.3
general_share = 0.3
[base_model]
source = "some/model"
[chunks]
tokens = 128
[selection]
share = 0.5
"""


class Corpora:
    """A study in a folder; each call sees the files and the study as they are then."""

    def __init__(self, folder):
        self.folder = folder
        self.study(STUDY)

    def study(self, text):
        (self.folder / "study.toml").write_text(text)

    @property
    def platform(self):
        return Platform(study_path=str(self.folder / "study.toml"))

    def materialize(self, asset, partition=None):
        with dg.DagsterInstance.ephemeral() as instance:
            if partition:
                instance.add_dynamic_partitions("corpus", [partition])
            resources = {"platform": self.platform}
            return dg.materialize([asset], instance=instance, partition_key=partition, resources=resources)

    def held_out(self, split):
        """Set aside, and return what is stored: document id and text hash."""
        assert self.materialize(assets.test_documents).success
        stored = self.platform.lake.snapshot().read(TEST_DOCUMENTS, ["doc_id", "text_hash"], {"split": split})
        return dict(stored.iter_rows())

    def is_pending(self):
        platform = self.platform
        inputs = assets.held_out_inputs(platform.study, platform.lake, platform.lake.snapshot())
        return platform.lake.latest("test_documents").inputs != inputs.digest

    def store_base_model(self, context_length):
        row = {
            column.name: 1 if column.name in ("parameters", "vocabulary", "bos_id", "eos_id") else column.name
            for column in BASE_MODEL.columns
        }
        rows = pl.DataFrame([row | {"context_length": context_length}], schema=pl.Schema(BASE_MODEL.schema))
        lake = self.platform.lake
        lake.commit([lake.stage(BASE_MODEL, rows)], Provenance("base_model", "", "run", "1", "inputs", "version"))


@pytest.fixture
def corpora(tmp_path):
    write(tmp_path / "notes", {f"{number}.txt": prose(number) for number in range(40)})
    write(tmp_path / "general", {f"{number}.txt": prose(100 + number) for number in range(40)})
    return Corpora(tmp_path)


def test_other_general_text_and_new_documents_leave_held_out_test_documents_alone(corpora):
    test, general = corpora.held_out("test"), corpora.held_out("general")
    write(corpora.folder / "notes", {f"new-{number}.txt": prose(200 + number) for number in range(40)})
    assert not corpora.is_pending()
    corpora.study(STUDY.replace("general_share = 0.3", "general_share = 0.6"))
    write(corpora.folder / "general", {f"new-{number}.txt": prose(300 + number) for number in range(40)})
    assert corpora.is_pending()
    assert corpora.held_out("test") == test
    assert set(general) < set(corpora.held_out("general"))
    assert not corpora.is_pending()


def test_another_share_draws_the_test_documents_anew_from_all_corpora(corpora):
    test = corpora.held_out("test")
    write(corpora.folder / "more", {f"{number}.txt": prose(400 + number) for number in range(40)})
    more = STUDY + '[corpora.more]\npath = "more"\n'
    corpora.study(more)
    assert not corpora.is_pending()
    corpora.study(more.replace("test_share = 0.3", "test_share = 0.5"))
    later = corpora.held_out("test")
    assert set(test) < set(later)
    assert any(doc_id.startswith("more:") for doc_id in later)
    assert corpora.platform.lake.latest("test_documents").facts["drawn_from"] == "more notes"


def test_another_number_of_buckets_moves_no_test_document(corpora):
    test = corpora.held_out("test")
    corpora.study(STUDY.replace("buckets = 2", "buckets = 3").replace("general_share = 0.3", "general_share = 0.4"))
    assert corpora.held_out("test") == test


def test_a_corpus_that_is_gone_is_no_longer_drawn_from(corpora):
    corpora.held_out("test")
    (corpora.folder / "notes").rename(corpora.folder / "essays")
    corpora.study(STUDY.replace("notes", "essays"))
    assert {doc_id.partition(":")[0] for doc_id in corpora.held_out("test")} == {"essays"}


def test_a_named_target_is_read_again_when_its_text_changes(corpora):
    write(corpora.folder / "target", {"a.txt": prose(500)})
    corpora.study(STUDY + '[corpora.target]\nrole = "test"\npath = "target"\n')
    assert set(corpora.held_out("test")) == {"target:a.txt:1"}
    write(corpora.folder / "target", {"b.txt": prose(501)})
    assert corpora.is_pending()
    assert set(corpora.held_out("test")) == {"target:a.txt:1", "target:b.txt:1"}


def test_no_test_document_is_an_error_that_says_of_how_many(corpora):
    corpora.study(STUDY.replace("test_share = 0.3", "test_share = 1e-9"))
    with pytest.raises(
        CorpusError, match=r"none of 40 candidate documents .*test_share = 1e-09; raise .*role = 'test'"
    ):
        corpora.materialize(assets.test_documents)


def test_no_document_of_the_target_is_an_error_that_names_its_corpus(corpora):
    write(corpora.folder / "target", {"a.txt": ""})
    corpora.study(STUDY + '[corpora.target]\nrole = "test"\npath = "target"\n')
    with pytest.raises(CorpusError, match=r"\(target\) hold no document with text"):
        corpora.materialize(assets.test_documents)


def test_no_general_document_is_no_error(corpora):
    corpora.study(STUDY.replace("general_share = 0.3", "general_share = 1e-9"))
    assert corpora.held_out("test")
    assert not corpora.held_out("general")


def test_chunks_need_a_base_model_and_test_documents_first(corpora):
    with pytest.raises(LakeError, match=r"base_model .*materialize it first"):
        corpora.materialize(assets.chunks, "notes-000")
    corpora.store_base_model(context_length=128)
    with pytest.raises(LakeError, match="materialize test_documents first"):
        corpora.materialize(assets.chunks, "notes-000")
    with pytest.raises(LakeError, match="materialize test_documents first"):
        stored_test_set(corpora.platform.study, corpora.platform.lake.snapshot())


def test_chunks_longer_than_the_models_context_are_refused(corpora):
    corpora.store_base_model(context_length=127)
    with pytest.raises(CorpusError, match=r"chunks\.tokens = 128 exceeds the context of base model source, 127 tokens"):
        corpora.materialize(assets.chunks, "notes-000")
