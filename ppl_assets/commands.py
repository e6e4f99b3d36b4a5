"""Commands on the selections and the lake: selections, diff, export, maintain."""

import argparse
import math
from pathlib import Path

from ppl_assets.errors import UserError


class CommandError(UserError, ValueError):
    """A command was not given what it needs; the message says what."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add them to the parser of ``ppl-assets``."""
    listed = commands.add_parser("selections", help="every selection that was made: id, time, tokens, lake snapshot")
    listed.set_defaults(action=_selections)
    diff = commands.add_parser("diff", help="what changed between two selections, and why")
    diff.add_argument("selections", nargs="*", metavar="A B", help="ids or lake snapshots; default: the last two")
    diff.add_argument("--chunks", type=Path, metavar="FILE", help="write every moved chunk as .parquet or .csv")
    diff.set_defaults(action=_diff)
    export = commands.add_parser("export", help="write a past selection again, the same bytes as its first export")
    export.add_argument("selection", nargs="?", help="id or lake snapshot; default: the newest")
    export.add_argument("--to", type=Path, metavar="FOLDER", help="where its folder is made; default: the exports")
    export.set_defaults(action=_export)
    maintain = commands.add_parser("maintain", help="keep the lake small: the job maintain_lake, run here")
    maintain.add_argument("--wait-hours", type=_hours, help="age at which unused files are removed; default: 24")
    maintain.add_argument(
        "--orphans", action="store_true", help="with storage.tables: remove files there that this lake does not know"
    )
    maintain.set_defaults(action=_maintain)


def _hours(text: str) -> float:
    """Hours that a person gave, as the job takes them."""
    from ppl_assets.lake_maintenance import MOST_HOURS

    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 <= hours <= MOST_HOURS:
        raise argparse.ArgumentTypeError(f"{text!r} is not accepted; give hours from 0 to {MOST_HOURS:,}")
    return hours


def _selections(_options: argparse.Namespace) -> None:
    from ppl_assets.markdown import as_markdown_table
    from ppl_assets.resources import Platform
    from ppl_assets.subset.history import selections_table

    found = selections_table(Platform().lake)
    print(as_markdown_table(found) if found.height else "Nothing was selected yet: materialize final_subset first.")  # noqa: T201 - the command's output


def _diff(options: argparse.Namespace) -> None:
    from ppl_assets.markdown import as_markdown_table
    from ppl_assets.resources import Platform
    from ppl_assets.subset.changes import changes, moved_chunks
    from ppl_assets.subset.history import find_selection, last_two, selections

    lake = Platform().lake
    made, named = selections(lake), options.selections
    if len(named) not in (0, 2):
        raise CommandError(f"diff compares two selections, {len(named)} given; name two, or none for the last two")
    file: Path | None = options.chunks
    if file and file.suffix not in (".parquet", ".csv"):
        raise CommandError(f"--chunks {file} is neither .parquet nor .csv; end it in one of them")
    if file and not file.parent.is_dir():
        raise CommandError(f"--chunks {file}: there is no folder {file.parent}; make it first")
    pair = (find_selection(made, named[0]), find_selection(made, named[1])) if named else last_two(made)
    found = changes(lake, *pair)
    tables = [found.by_reason, found.counts, found.facts]
    print("\n\n".join([found.sentence, *(as_markdown_table(table) for table in tables if table.height)]))  # noqa: T201 - the command's output
    if file:
        rows = moved_chunks(lake, *pair)
        rows.write_csv(file) if file.suffix == ".csv" else rows.write_parquet(file)
        print(f"\n{rows.height:,} chunks written to {file}")  # noqa: T201 - the command's output


def _export(options: argparse.Namespace) -> None:
    from ppl_assets.resources import Platform
    from ppl_assets.subset.handover import differing_files, export_again, exported_as
    from ppl_assets.subset.history import find_selection, selections

    if options.to and options.to.exists() and not options.to.is_dir():
        raise CommandError(f"--to {options.to} is a file; name a folder, which is made where it is absent")
    platform = Platform()
    made, exports = selections(platform.lake), platform.root / "exports"
    if options.selection:
        one = find_selection(made, options.selection)
    else:
        one = exported_as(platform.lake, made, made[-1].selection_id if made else "")
    first = exports / one.selection_id
    was_there = first.is_dir()
    written = export_again(platform.study, platform.lake, one, options.to or exports)
    print(written)  # noqa: T201 - the command's output
    if was_there:
        other = differing_files(first, written)
        same = "the same files, byte by byte, as" if not other else f"{', '.join(other)} differ from those of"
        print(f"{same} {first}")  # noqa: T201 - the command's output


def _maintain(options: argparse.Namespace) -> int:
    from ppl_assets.automation.instance import LAUNCHER_TAG, study_instance, this_process
    from ppl_assets.automation.maintenance import JOB, run_config
    from ppl_assets.automation.run import QUIET, cause_of
    from ppl_assets.resources import Platform

    platform = Platform()
    with study_instance(platform.study) as instance:
        from ppl_assets.definitions import defs

        given = {**run_config(options.wait_hours, remove_orphans=options.orphans), **QUIET}
        result = defs.resolve_job_def(JOB.name).execute_in_process(
            instance=instance, run_config=given, raise_on_error=False, tags={LAUNCHER_TAG: this_process()}
        )
    if not result.success:
        raise CommandError(cause_of(result)[1])
    (event,) = result.asset_materializations_for_node("lake_maintenance")
    for name, value in event.metadata.items():
        if not name.startswith("dagster/"):
            is_table = str(value.value).startswith("|")
            text = f"\n{value.value}\n" if is_table else f"{name:<24} {value.value}"
            print(text)  # noqa: T201 - the command's output
    return 0
