"""What looks at the corpora while the UI runs, and what starts the assets that follow them.

Belongs here: the sensors and the nightly schedule. When a corpus has changed is decided in ``corpus/watch.py``, what
follows from it in ``conditions.py``.
"""

import json
import os
import time
from collections.abc import Callable, Sequence

import dagster as dg

from ppl_assets.automation.conditions import CONDITIONS
from ppl_assets.automation.instance import sync_partitions
from ppl_assets.automation.jobs import check_study, observe_corpora
from ppl_assets.automation.outstanding import versions_in_force
from ppl_assets.corpus.watch import GONE, from_json, look, study_stamps, to_json
from ppl_assets.errors import UserError
from ppl_assets.resources import CORPUS_PARTITIONS, Platform, tag_of_corpora
from ppl_assets.study import Study

INTERVAL_VARIABLE = "PPL_ASSETS_SENSOR_SECONDS"
"""Environment variable: seconds between two looks of a sensor. Dagster wants the number when the sensor is defined, so
it is read then; the daemon looks at most every five seconds."""

DEFAULT_INTERVAL = 30

CORPORA = str(CORPUS_PARTITIONS.name)


def interval() -> int:
    """Seconds between two looks.

    Raises:
        UserError: the variable is no positive whole number.
    """
    given = os.environ.get(INTERVAL_VARIABLE, "") or str(DEFAULT_INTERVAL)
    if not given.isdigit() or int(given) < 1:
        raise UserError(f"{INTERVAL_VARIABLE} = {given!r} is not accepted: give whole seconds, 1 or more")
    return int(given)


def build_sensors() -> list[dg.SensorDefinition]:
    """The sensors, running as soon as the daemon does."""
    return [_corpus_changes(), _followers()]


def _followers() -> dg.SensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        "follow_corpora",
        target=dg.AssetSelection.assets(*CONDITIONS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=interval(),
        use_user_code_server=True,  # CorporaChanged is a condition of our own
        description=(
            "Runs what is cheap and follows a changed corpus: chunks, scores of new chunks, landscape, subset, report. "
            "Runs by itself as long as the UI does; never starts a trial."
        ),
    )


def _corpus_changes() -> dg.SensorDefinition:
    @dg.sensor(
        name="corpus_changes",
        jobs=[observe_corpora, check_study],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=interval(),
        description=(
            "Registers corpora that were added to the study file or dropped into its discovery folder, removes those "
            "that are gone, and asks for an observation of a corpus whose files changed, once they have been quiet "
            "for discovery.settle_seconds. Looks at names, sizes and times; corpora behind a URL wait for the night. "
            "Runs by itself as long as the UI does."
        ),
    )
    def corpus_changes(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
        try:
            study = platform.study
        except UserError as error:
            reason = f"The study cannot be read, so nothing is changed: {error}"
            return dg.SensorResult(skip_reason=reason, cursor=context.cursor)
        registered = context.instance.get_dynamic_partitions(CORPORA)
        return tick(study, registered, context.cursor, time.time(), context.log.info)

    return corpus_changes


def tick(
    study: Study, registered: Sequence[str], cursor: str | None, now: float, say: Callable[[str], None]
) -> dg.SensorResult:
    """One look: which partitions come and go, which are to be observed, and whether the checks are to say anew.

    Args:
        study: the study as it is now.
        registered: the corpus partitions that Dagster knows.
        cursor: of the last look.
        now: seconds since 1970.
        say: writes a line to the tick's log.
    """
    memory = json.loads(cursor or "{}")
    stamps, problems = study_stamps(study)
    present = study.corpus_partitions()
    digests = {partition: stamp.digest for partition, stamp in stamps.items()}
    digests |= dict.fromkeys((key for key in registered if key not in present), GONE)
    found = look(digests, from_json(memory.get("seen")), now, study.discovery.settle_seconds)
    new = [key for key in present if key not in registered]
    requests = [_observation(found.changed, now)] if found.changed else []
    versions = versions_in_force(study)
    if memory.get("versions", versions) != versions:
        requests.append(dg.RunRequest(job_name=check_study.name, run_key=f"{versions} {now:.3f}"))
    standing, moved = [*study.found.skipped, *problems], _told(new, found.changed, found.waiting, found.gone)
    for sentence in [*(one for one in standing if one not in memory.get("said", [])), *moved]:
        say(sentence)
    partitions: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    partitions += [CORPUS_PARTITIONS.build_add_request(new)] if new else []
    partitions += [CORPUS_PARTITIONS.build_delete_request(found.gone)] if found.gone else []
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else "\n".join([*standing, *moved]) or "No corpus has changed.",
        dynamic_partitions_requests=partitions,
        cursor=json.dumps({"seen": to_json(found.memory), "versions": versions, "said": standing}),
    )


def _observation(partitions: Sequence[str], now: float) -> dg.RunRequest:
    """One run that observes these partitions, named by its tag.

    A run of one partition that fails would count as that partition's failed materialization for ever, since an
    observation makes none.
    """
    return dg.RunRequest(job_name=observe_corpora.name, run_key=f"{now:.3f}", tags=tag_of_corpora(partitions))


def _told(new: Sequence[str], changed: Sequence[str], waiting: Sequence[str], gone: Sequence[str]) -> list[str]:
    told = {
        "new": new,
        "changed, to be observed": changed,
        "changed, waiting until nothing more is written": waiting,
        "removed": gone,
    }
    return [f"Corpora {what}: {', '.join(keys)}." for what, keys in told.items() if keys]


@dg.schedule(
    name="observe_corpora_nightly",
    job=observe_corpora,
    cron_schedule="0 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description=(
        "Looks into every corpus once a night, those behind a URL too: registers new ones, removes vanished ones, and "
        "observes all that nobody is writing to. Runs by itself as long as the UI does."
    ),
)
def observe_corpora_nightly(context: dg.ScheduleEvaluationContext, platform: Platform) -> dg.RunRequest | dg.SkipReason:
    """What the sensor does, over everything."""
    try:
        study = platform.study
    except UserError as error:
        return dg.SkipReason(f"The study cannot be read, so nothing is changed: {error}")
    sync_partitions(context.instance, CORPORA, study.corpus_partitions())
    stamps, problems = study_stamps(study)
    latest = time.time() - study.discovery.settle_seconds
    quiet = [key for key, stamp in stamps.items() if stamp.modified <= latest]
    for sentence in [*study.found.skipped, *problems]:
        context.log.info(sentence)
    if not quiet:
        return dg.SkipReason(
            "Every corpus is being written to; the sensor corpus_changes asks for each once it is quiet."
        )
    return dg.RunRequest(tags=tag_of_corpora(quiet))


SCHEDULES = [observe_corpora_nightly]
