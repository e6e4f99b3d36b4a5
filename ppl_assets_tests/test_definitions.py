import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ppl_assets.column_sources import COLUMN_SOURCES
from ppl_assets.definitions import build_defs, defs
from ppl_assets.perplexity.stored import stored_base_model, study_policy
from ppl_assets.resources import column_lineage
from ppl_assets.tables import TABLES

REPOSITORY = Path(__file__).parents[1]

ASSETS = {
    "raw_corpus": "1_corpus",
    "test_documents": "1_corpus",
    "chunks": "1_corpus",
    "base_model": "1_corpus",
    "perplexity_scores": "2_perplexity",
    "perplexity_landscape": "2_perplexity",
    "regime_partitions": "3_regimes",
    "trial_losses": "4_trials",
    "fitted_law": "5_law",
    "next_trials": "5_law",
    "final_subset": "6_subset",
    "strategy_losses": "6_subset",
    "selection_report": "6_subset",
    "lake_maintenance": "7_maintenance",
}
WRITTEN = sorted(set(ASSETS) - {"raw_corpus"})


@pytest.fixture(scope="module")
def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_the_assets_are_those_that_users_know(specs):
    assert {name: spec.group_name for name, spec in specs.items()} == ASSETS


@pytest.mark.parametrize("name", WRITTEN)
def test_every_asset_says_what_it_is(specs, name):
    spec = specs[name]
    assert spec.owners
    assert 1 <= len(spec.kinds) <= 3
    assert spec.code_version
    assert len(spec.description or "") > 40
    schema = spec.metadata["dagster/column_schema"]
    declared = TABLES[spec.metadata["dagster/table_name"].removeprefix("lake.")]
    assert [column.name for column in schema.columns] == [column.name for column in declared.columns]
    assert all(column.description for column in schema.columns)
    said = {column.name: column.description for column in schema.columns}
    for column, sources in COLUMN_SOURCES.get(declared.name, {}).items():
        assert said[column].endswith(f" From {', '.join(sources)}."), column


@pytest.mark.parametrize("name", sorted(set(WRITTEN) - {"lake_maintenance"}))
def test_columns_come_from_columns_that_exist_upstream(name):
    ancestors = {key.to_user_string() for key in defs.resolve_asset_graph().get_ancestor_asset_keys(dg.AssetKey(name))}
    columns = {table: {column.name for column in TABLES[table].columns} for table in TABLES}
    columns["raw_corpus"] = {"id", "text"}
    lineage = column_lineage(TABLES[name]).deps_by_column
    assert lineage, "some column of every asset comes from another asset"
    assert set(lineage) <= columns[name]
    for column, sources in lineage.items():
        for source in sources:
            asset = source.asset_key.to_user_string()
            assert asset in ancestors, column
            assert source.column_name in columns[asset], column


def test_dependencies_run_the_way_the_data_runs():
    graph = defs.resolve_asset_graph()
    order = [key.to_user_string() for key in graph.toposorted_asset_keys]
    chain = [
        "raw_corpus", "test_documents", "base_model", "chunks", "perplexity_scores", "perplexity_landscape",
        "regime_partitions", "trial_losses", "fitted_law", "final_subset", "strategy_losses", "selection_report",
    ]  # fmt: skip
    assert [name for name in order if name in chain] == chain


def test_assets_with_partitions_of_different_kinds_depend_on_all_of_them():
    graph, different = defs.resolve_asset_graph(), []
    for key in graph.materializable_asset_keys:
        for parent in graph.get(key).parent_keys:
            kinds = graph.get(key).partitions_def, graph.get(parent).partitions_def
            if None not in kinds and kinds[0] != kinds[1]:
                different.append((key.to_user_string(), parent.to_user_string()))
                assert isinstance(graph.get_partition_mapping(key, parent), dg.AllPartitionMapping)
    assert sorted(different) == [("strategy_losses", "chunks"), ("trial_losses", "chunks")]


def test_proposals_are_downstream_of_trials_and_no_asset_starts_trials_by_itself(specs):
    graph = defs.resolve_asset_graph()
    assert dg.AssetKey("trial_losses") in graph.get_ancestor_asset_keys(dg.AssetKey("next_trials"))
    assert dg.AssetKey("next_trials") not in graph.get_ancestor_asset_keys(dg.AssetKey("trial_losses"))
    for name in ("regime_partitions", "trial_losses", "fitted_law", "next_trials"):
        assert specs[name].automation_condition is None


def test_corpus_and_score_checks_block_partition_by_partition():
    checks = {
        spec.key.name: spec
        for check in defs.asset_checks or []
        for spec in check.check_specs
        if spec.asset_key.to_user_string() in ("chunks", "perplexity_scores")
    }
    blocking = {name for name, spec in checks.items() if spec.blocking}
    assert blocking == {
        "no_candidate_holds_test_text",
        "chunks_are_sound",
        "every_chunk_is_scored",
        "scores_match_the_oracle",
    }
    assert all(spec.partitions_def is not None for spec in checks.values())


def test_the_three_entry_points_agree():
    workspace = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    named = {
        workspace["load_from"][0]["python_module"],
        project["dagster"]["module_name"],
        project["dg"]["project"]["code_location_target_module"],
    }
    assert named == {"ppl_assets.definitions"}


def test_resources_can_be_replaced():
    replaced = build_defs({"platform": dg.ResourceDefinition.hardcoded_resource("other")})
    assert replaced.resources["platform"] is not defs.resources["platform"]


def test_workspace_validates_without_a_warning_from_our_code():
    command = [str(Path(sys.executable).with_name("dagster")), "definitions", "validate", "-w", "workspace.yaml"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "ppl_assets/" not in output


SLOW_TO_IMPORT = {"torch", "transformers", "matplotlib", "bokeh", "scipy.stats", "scipy.spatial"}
"""Seconds each, or half of one; a run imports the definitions, and so does what starts its steps."""


def slow_modules(code: str, **environment: str) -> set[str]:
    """Those of SLOW_TO_IMPORT that a new process holds after running the code."""
    told = f"{code}\nimport sys; print(); print(*sorted(set({SLOW_TO_IMPORT!r}) & set(sys.modules)))"
    command = [sys.executable, "-c", told]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_definitions_imports_nothing_that_only_some_steps_need():
    assert slow_modules("import torch") >= {"torch"}
    assert slow_modules("import ppl_assets.definitions") == set()


def test_what_is_up_to_date_is_told_without_loading_a_model_class(finished_study):
    code = "from ppl_assets.cli import main; assert main(['status']) == 0"
    # Where the device is auto, a build of torch for CUDA has to be asked.
    assert slow_modules(code, PPL_ASSETS_STUDY=str(finished_study.file), PPL__STUDY__DEVICE="cpu") == set()


def test_the_attention_of_a_model_that_was_recorded_without_it_is_found(finished_study):
    snapshot = finished_study.platform.lake.snapshot()
    base = stored_base_model(snapshot)
    policies = {study_policy(finished_study.platform.study, replace(base, attention=told)) for told in ("sdpa", None)}
    assert len(policies) == 1
