"""The code location: assembles what the stages offer; nothing else belongs here."""

import multiprocessing
from collections.abc import Mapping
from typing import Any

import dagster as dg

from ppl_assets.automation import maintenance
from ppl_assets.automation.broken import LOOK_DAILY, nothing_is_broken
from ppl_assets.automation.checks import CHECKS
from ppl_assets.automation.conditions import with_conditions
from ppl_assets.automation.history import FORGET_WEEKLY, forget_old_runs
from ppl_assets.automation.jobs import JOBS
from ppl_assets.automation.sensors import SCHEDULES, build_sensors
from ppl_assets.corpus import assets as corpus
from ppl_assets.law import assets as law
from ppl_assets.perplexity import assets as perplexity
from ppl_assets.regimes import assets as regimes
from ppl_assets.resources import Platform
from ppl_assets.subset import assets as subset
from ppl_assets.trials import assets as trials

STAGES = (corpus, perplexity, regimes, trials, law, subset)
"""The stages in the order in which the data runs."""

START_METHOD: dict[str, Any] = (
    {"forkserver": {"preload_modules": [__name__]}}
    if "forkserver" in multiprocessing.get_all_start_methods()
    else {"spawn": {}}
)
"""How a run starts the process of a step: from one that has imported this module already, where the system can. An
asset with its checks is four or five steps, and importing takes two seconds or more on a small machine."""


def build_defs(
    resource_overrides: Mapping[str, Any] | None = None, executor: dg.ExecutorDefinition | None = None
) -> dg.Definitions:
    """The definitions, with resources and executor replaced where a test or another deployment gives its own."""
    return dg.Definitions(
        assets=with_conditions([*(asset for stage in STAGES for asset in stage.ASSETS), maintenance.lake_maintenance]),
        asset_checks=[*(check for stage in STAGES for check in stage.CHECKS), *CHECKS, nothing_is_broken],
        jobs=[*JOBS, maintenance.JOB, forget_old_runs],
        schedules=[*SCHEDULES, maintenance.SCHEDULE, LOOK_DAILY, FORGET_WEEKLY],
        sensors=build_sensors(),
        executor=executor or dg.multiprocess_executor.configured({"max_concurrent": 2, "start_method": START_METHOD}),
        resources={"platform": Platform(), **(resource_overrides or {})},
    )


defs = build_defs()
