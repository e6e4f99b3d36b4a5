"""When an asset runs by itself. Attached at assembly: a stage does not know when it runs.

What a change costs decides: re-chunking, rescoring new chunks, drawing the landscape, selecting and reporting are cheap
and follow a changed corpus by themselves. The test set, the base model, the trial design, trials and strategies change
what earlier GPU hours are worth, or cost new ones: they run when asked for.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

_SAFE = dg.AutomationCondition.all_deps_blocking_checks_passed()
"""``eager()`` alone does not respect a blocking check that failed in another run."""

FOLLOW_FILES = (dg.AutomationCondition.eager() & _SAFE).with_label("follow_files")
"""Directly below the observed corpora: a new content version fires it, the same version observed again does not."""

FOLLOW_CONTENT = (
    dg.AutomationCondition.eager().replace("newly_updated", dg.AutomationCondition.data_version_changed()) & _SAFE
).with_label("follow_content")
"""Below materialized assets: plain ``eager()`` would fire for every re-materialization, even where the content is equal
(dagster#25439)."""

CONDITIONS: dict[str, dg.AutomationCondition] = {
    "chunks": FOLLOW_FILES,
    "perplexity_scores": FOLLOW_CONTENT,
    "perplexity_landscape": FOLLOW_CONTENT,
    "final_subset": FOLLOW_CONTENT,
    "selection_report": FOLLOW_CONTENT,
}
"""The assets that run by themselves, and why they do."""


OWNERS = ("team:data",)
"""Who is asked about an asset, as Dagster shows it; another deployment gives its own to ``with_conditions``."""


def with_conditions(assets: Sequence[Any], owners: Sequence[str] = OWNERS) -> list[Any]:
    """The assets, with their conditions and owners attached."""

    def attach(spec: dg.AssetSpec) -> dg.AssetSpec:
        condition = CONDITIONS.get(spec.key.to_user_string())
        return spec.replace_attributes(owners=list(owners), automation_condition=condition)

    ours = [asset for asset in assets if isinstance(asset, dg.AssetsDefinition)]
    observed = [asset for asset in assets if not isinstance(asset, dg.AssetsDefinition)]
    return [*observed, *dg.map_asset_specs(attach, ours)]
