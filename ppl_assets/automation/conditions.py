"""When an asset runs by itself. Attached at assembly: a stage does not know when it runs.

What a change costs decides: re-chunking, rescoring new chunks, drawing the landscape, selecting and reporting are cheap
and follow a changed corpus by themselves. The test set, the base model, the trial design, trials and strategies change
what earlier GPU hours are worth, or cost new ones: they run when asked for. So does everything whose code has changed:
no condition asks for the code's version, since on ``perplexity_scores`` that would be the whole world scored again.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.declarative_automation.automation_condition import BuiltinAutomationCondition
from dagster._core.definitions.declarative_automation.operators.dep_operators import DepsAutomationCondition

When = dg.AutomationCondition

CHANGED = "any_deps_changed"
"""Label of what counts as a change, in the UI."""


class CorporaChanged(dg.AutomationCondition[dg.AssetKey]):
    """The dependencies of an asset have other partitions than on the last tick.

    A corpus that is removed leaves no event: no dependency is updated, and the landscape would speak of it for ever.
    One that comes back with the content that it had leaves none either.
    """

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "corpora_changed"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """Compare with the partitions of the last tick; the first one only remembers."""
        view, parents = context.asset_graph_view, sorted(context.asset_graph.get(context.key).parent_keys)
        present = {
            key.partition_key or ""
            for parent in parents
            for key in view.get_full_subset(key=parent).expensively_compute_asset_partitions()
        }
        cursor = " ".join(sorted(present)) or " "
        has_changed = context.cursor is not None and context.cursor != cursor
        subset = context.candidate_subset if has_changed else context.get_empty_subset()
        return dg.AutomationResult(context, subset, cursor=cursor)


def _in_deps(changed: dg.AutomationCondition) -> DepsAutomationCondition[Any]:
    """A dependency changed in a run that did not run this asset too, or will be requested on this tick."""
    return When.any_deps_match((changed & ~When.executed_with_root_target()) | When.will_be_requested())


def _in_events_of(
    heard: dg.AssetSelection, ignored: dg.AssetSelection | None = None
) -> BuiltinAutomationCondition[Any]:
    """One of ``heard`` has a new event, or another dependency that is not ``ignored`` has other content."""
    others = heard | ignored if ignored else heard
    return _in_deps(When.newly_updated()).allow(heard) | _in_deps(When.data_version_changed()).ignore(others)


def _follow(updated: BuiltinAutomationCondition[Any], label: str) -> dg.AutomationCondition:
    """Run what changed, once for each change, and once more where the run failed.

    ``eager()`` with three differences. It forgets an update that comes while a run of the asset is in flight, since the
    end of that run counts as handling it; and one that comes on the tick after a request. Here a wish ends with the
    request that it led to and with nothing else. It never asks for a failed run again; here the first failure since a
    change asks once more, and the next one waits for a person: retrying on failure alone would go on for ever. And it
    does not respect a blocking check that failed in another run.

    Args:
        updated: what counts as a change.
        label: name in the UI.
    """
    updated = updated.with_label(CHANGED)
    # Latched until the next change or success, so that only the first failure makes it true anew.
    has_failed = When.execution_failed().newly_true().since(updated | When.newly_updated() | When.initial_evaluation())
    wish = When.newly_missing() | updated | has_failed.newly_true().with_label("failed_first")
    is_wanted = wish.since((When.newly_requested() & ~wish) | When.initial_evaluation())
    return (
        When.in_latest_time_window()
        & is_wanted
        & ~When.any_deps_missing()
        & ~When.any_deps_in_progress()
        & ~When.in_progress()
        & When.all_deps_blocking_checks_passed()
    ).with_label(label)


FOLLOW_FILES = _follow(_in_events_of(dg.AssetSelection.assets("raw_corpus")), "follow_files")
"""Directly below the observed corpora: a new content version fires it, the same version observed again does not. Test
documents and base model that were found unchanged do not either."""

FOLLOW_CONTENT = _follow(_in_deps(When.data_version_changed()), "follow_content")
"""Below materialized assets: their every materialization would count as a change otherwise, even where the content is
equal (dagster#25439)."""

FOLLOW_CORPORA = _follow(_in_deps(When.data_version_changed()) | CorporaChanged(), "follow_corpora")
"""Over all corpora: as above, and where a corpus is removed, or comes back as it was."""

FOLLOW_LANDSCAPE = _follow(
    _in_events_of(dg.AssetSelection.assets("perplexity_landscape"), ignored=dg.AssetSelection.assets("chunks")),
    "follow_landscape",
)
"""Below the landscape and the chunks that it is drawn of: chunks alone are not waited for, since those of a new corpus
are there a run before their scores, and what is selected from them then is selected again. Whatever chunks change, the
landscape is drawn next; that it was drawn counts, since files may have been renamed where its figures stay the same."""

CONDITIONS: dict[str, dg.AutomationCondition] = {
    "chunks": FOLLOW_FILES,
    "perplexity_scores": FOLLOW_CONTENT,
    "perplexity_landscape": FOLLOW_CORPORA,
    "final_subset": FOLLOW_LANDSCAPE,
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
