"""The ``ppl-assets`` command: run the study, open its UI, its lake, its lineage."""

import argparse
import errno
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from ppl_assets.commands import add_commands
from ppl_assets.errors import UserError
from ppl_assets.study import StudyError

MOST_PORT = 65_535


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.study:
        os.environ["PPL_ASSETS_STUDY"] = options.study
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        status = int(options.action(options) or 0)
        sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the command's own message
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and not _is_read(sys.stdout):  # whoever read it has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print(f"{error.filename or 'a file'}: {error.strerror or error}. What was finished is kept.", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. What was finished is kept; the same command goes on from there.", file=sys.stderr)  # noqa: T201
        return 130
    return status


def _is_read(output: TextIO) -> bool:
    """Whether somebody still reads what is printed."""
    poll = select.poll()
    poll.register(output.fileno(), select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def _port(given: str) -> int:
    """A port to listen on.

    Raises:
        ArgumentTypeError: it is none.
    """
    if given.isdecimal() and 1 <= int(given) <= MOST_PORT:
        return int(given)
    raise argparse.ArgumentTypeError(f"{given!r} is not accepted; give a port from 1 to {MOST_PORT:,}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ppl-assets", description=__doc__)
    parser.add_argument("--study", help="study file; default: $PPL_ASSETS_STUDY, else study.toml")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="bring every asset up to date and print the selection's summary")
    run.set_defaults(action=_run)
    ui = commands.add_parser("ui", help="the Dagster UI and daemon on this study")
    ui.add_argument("--port", type=_port, default=3000)
    ui.add_argument("--host", default="127.0.0.1", help="loopback unless told otherwise: the UI has no login")
    ui.add_argument("--path-prefix", default="", help="e.g. /ppl, where a proxy shows the UI below a path")
    ui.add_argument("--read-only", action="store_true", help="nothing can be started, and no daemon runs")
    ui.set_defaults(action=_ui)
    sql = commands.add_parser("sql", help="a DuckDB prompt on the study's lake")
    sql.add_argument("query", nargs="?", help="run one query and leave")
    sql.add_argument("--write", action="store_true", help="may change tables, which no lineage will explain")
    sql.set_defaults(action=_sql)
    lineage = commands.add_parser("lineage", help="from a selected chunk to run, code, model and corpus version")
    lineage.add_argument("chunk_id", nargs="?", help="a chunk of final_subset; default: its first one")
    lineage.set_defaults(action=_lineage)
    status = commands.add_parser("status", help="what is up to date and what would be computed")
    status.set_defaults(action=_status)
    backfill = commands.add_parser("backfill", help="run one asset for any of its partitions, in one process")
    backfill.add_argument("asset", nargs="?", default="", help="e.g. chunks or trial_losses")
    which = backfill.add_mutually_exclusive_group()
    which.add_argument("--partitions", default="", help="names with commas between them, in any order")
    which.add_argument("--all", action="store_true", help="all partitions")
    which.add_argument("--failed", action="store_true", help="those whose latest run or blocking check failed")
    backfill.add_argument("--force", action="store_true", help="compute anew what its inputs already made")
    backfill.set_defaults(action=_backfill)
    validate = commands.add_parser("validate", help="load workspace.yaml as Dagster does")
    validate.set_defaults(action=_validate)
    add_commands(commands)
    return parser


def _run(_options: argparse.Namespace) -> int:
    from rich.console import Console

    from ppl_assets.automation.instance import study_instance
    from ppl_assets.resources import Platform

    console = Console(soft_wrap=True)
    started = time.monotonic()
    platform = Platform()
    study = platform.study
    console.print(
        f"study [bold]{study.study.name}[/] ({platform.study_file.name}), data in {platform.root}", highlight=False
    )
    with study_instance(study) as instance:
        from ppl_assets.automation.run import run_study
        from ppl_assets.automation.summary import summary
        from ppl_assets.definitions import defs

        try:
            outcomes = run_study(defs, platform, instance, console)
        except UserError as error:
            console.print("[bold red]failed[/]", end=" ")
            console.print(str(error), highlight=False, markup=False)
            console.print("What was finished is kept; the same command goes on from there.")
            return 1
        console.print(summary(platform, outcomes, time.monotonic() - started), highlight=False)
    return 0


def _ui(options: argparse.Namespace) -> int:
    from ppl_assets.automation.instance import dagster_home, study_instance
    from ppl_assets.resources import Platform

    platform = Platform()
    lock = None if options.read_only else _lock_of_the_ui(platform.root)
    try:
        if not options.read_only:
            _require_no_servers(dagster_home(platform.study))
        _require_free(options.host, options.port)
        with study_instance(platform.study, registers=not options.read_only):
            platform.lake.snapshot()
        platform.lake.close()
        environment = {**os.environ, "PPL_ASSETS_STUDY": str(platform.study_file)}
        if options.path_prefix:  # an option of the webserver that `dagster dev` does not pass on
            environment["DAGSTER_WEBSERVER_PATH_PREFIX"] = options.path_prefix
        program = [_program("dagster-webserver"), "--read-only"] if options.read_only else [_program("dagster"), "dev"]
        command = [*program, "-m", "ppl_assets.definitions", "-h", options.host, "-p", str(options.port)]
        sys.stdout.flush()
        # In this very process: whoever ends it ends the UI, its daemon and all that they started.
        os.execve(command[0], command, environment)  # noqa: S606 - our own command line
    finally:  # it was not
        if lock is not None:
            os.close(lock)


def _require_free(host: str, port: int) -> None:
    """Whether the UI can listen there.

    Raises:
        StudyError: another program listens there, or the address is not this machine's.
    """
    try:
        socket.getaddrinfo(host, port)
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        reason = str(error.strerror or error).partition(" (")[0]
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise StudyError(
                f"--host {host} cannot be listened on ({reason}); name an address of this machine with --host, or "
                "leave it out for 127.0.0.1"
            ) from error
        raise StudyError(
            f"{host}:{port} cannot be listened on ({reason}); is the UI open there already? If not, "
            "name another port: make ui PORT=3001, or --port 3001"
        ) from error


def _require_no_servers(home: Path) -> None:
    """Whether no daemon serves the study, of a UI that was killed or of a deployment.

    Raises:
        StudyError: one does.
    """
    from ppl_assets.automation.instance import servers_of

    if servers := " ".join(map(str, servers_of(home))):
        raise StudyError(
            f"Dagster serves this study already (processes {servers}), perhaps left by a UI that was killed; "
            f"end them first (kill {servers}), or add --read-only for a UI that only shows"
        )


def _lock_of_the_ui(root: Path) -> int:
    """Descriptor of a lock that the program held to its end: two daemons on one study would start everything twice.

    Raises:
        StudyError: another process holds it.
    """
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / "ui.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StudyError(
            "the UI of this study runs already, with its daemon; open it in the browser, end it with Ctrl-C where it "
            "was started, or add --read-only for a second one that only shows"
        ) from error
    os.set_inheritable(descriptor, True)
    return descriptor


def _sql(options: argparse.Namespace) -> int:
    from ppl_assets.resources import Platform

    platform = Platform()
    platform.lake.snapshot()
    statements = "; ".join([*platform.lake.attach_statements(is_read_only=not options.write), "USE lake"])
    platform.lake.close()
    command = [_program("duckdb"), "-cmd", statements + ";", *(["-c", options.query] if options.query else [])]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own command line


def _lineage(options: argparse.Namespace) -> int:
    from ppl_assets.automation.summary import lineage_table
    from ppl_assets.resources import Platform

    try:
        print(lineage_table(Platform().lake, options.chunk_id))  # noqa: T201 - the command's output
    except LookupError as error:
        raise StudyError(error.args[0]) from error
    return 0


def _status(_options: argparse.Namespace) -> int:
    from ppl_assets.automation.broken import broken_lines
    from ppl_assets.automation.instance import study_instance
    from ppl_assets.automation.plan import status_lines
    from ppl_assets.resources import Platform

    platform = Platform()
    with study_instance(platform.study, registers=False) as instance:
        for line in [*status_lines(platform, instance), *broken_lines(platform, instance)]:
            print(line)  # noqa: T201 - the command's output
    return 0


def _backfill(options: argparse.Namespace) -> int:
    from rich.console import Console

    from ppl_assets.automation.backfill import Wanted, backfill, chosen_partitions
    from ppl_assets.automation.instance import study_instance
    from ppl_assets.definitions import defs
    from ppl_assets.resources import Platform

    platform, console = Platform(), Console(soft_wrap=True)
    keys = [key for part in options.partitions.split(",") if (key := part.strip())]
    with study_instance(platform.study) as instance:
        wanted = Wanted(keys, options.all, options.failed)
        partitions = chosen_partitions(options.asset, wanted, platform, instance)
        if not partitions:
            console.print(f"nothing of {options.asset} is broken: there is nothing to do", highlight=False)
            return 0
        outcome = backfill(defs, platform, instance, console, options.asset, partitions, is_forced=options.force)
    if outcome.failed:
        console.print(outcome.failure(platform), highlight=False, markup=False)
    return 1 if outcome.failed else 0


def _validate(_options: argparse.Namespace) -> int:
    command = [_program("dagster"), "definitions", "validate", "-w", "workspace.yaml"]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own command line


def _program(name: str) -> str:
    """A program of this environment, whether or not the environment is activated."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise StudyError(f"the program {name} is not installed beside {sys.executable}; run make demo again")
    return found


if __name__ == "__main__":
    sys.exit(main())
