"""The ``ppl-assets`` command: what it starts."""

import os
import socket
import subprocess
import sys

import pytest

from ppl_assets import cli
from ppl_assets.automation.instance import servers_of, study_instance
from ppl_assets.study import StudyError


class _Replaced(BaseException):
    """The process would be another program from here on: its path, command line and environment."""


def _instead(*program):
    raise _Replaced(*program)


@pytest.fixture
def started(finished_study, monkeypatch):
    """What ``ppl-assets ui`` with these options would start: its command line and environment."""
    monkeypatch.setenv("PPL_ASSETS_STUDY", str(finished_study.file))
    monkeypatch.setattr(cli, "_require_free", lambda *_: None)  # a UI may be open on this machine

    def start(*options: str) -> tuple[list[str], dict[str, str]]:
        with monkeypatch.context() as patch:
            patch.setattr(cli.os, "execve", _instead)
            with pytest.raises(_Replaced) as replaced:
                cli.main(["ui", *options])
        return replaced.value.args[1:]

    return start


def test_the_ui_listens_on_loopback_with_its_daemon(started):
    command, environment = started()
    assert command[1:] == ["dev", "-m", "ppl_assets.definitions", "-h", "127.0.0.1", "-p", "3000"]
    assert "DAGSTER_WEBSERVER_PATH_PREFIX" not in environment


def test_the_ui_behind_a_proxy_gets_its_path(started):
    assert started("--path-prefix", "/ppl")[1]["DAGSTER_WEBSERVER_PATH_PREFIX"] == "/ppl"


def test_a_second_ui_of_a_study_is_refused_with_what_to_do(tmp_path):
    first = cli._lock_of_the_ui(tmp_path)
    with pytest.raises(StudyError, match=r"runs already, with its daemon; .* or add --read-only"):
        cli._lock_of_the_ui(tmp_path)
    os.close(first)
    os.close(cli._lock_of_the_ui(tmp_path))


def test_a_port_that_is_taken_is_said_before_anything_starts():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StudyError, match=rf"127.0.0.1:{port} cannot be listened on .* name another port"):
            cli._require_free("127.0.0.1", port)
    cli._require_free("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_this_machines_is_said(host, monkeypatch):
    def unknown(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host.endswith("invalid"):  # some resolvers know every name
        monkeypatch.setattr(cli.socket, "getaddrinfo", unknown)
    with pytest.raises(StudyError, match=rf"--host {host} cannot be listened on .* leave it out for 127\.0\.0\.1"):
        cli._require_free(host, 3055)


@pytest.mark.parametrize("port", ["0", "-5", "99999", "http"])
def test_ports_that_cannot_be_are_refused(port, capsys):
    with pytest.raises(SystemExit):
        cli.main(["ui", f"--port={port}"])
    assert f"'{port}' is not accepted; give a port from 1 to 65,535" in capsys.readouterr().err


def test_a_daemon_that_a_killed_ui_left_is_named(tmp_path):
    """Beside it a second one would start every run twice."""
    idle = [sys.executable, "-c", "import time; time.sleep(60)", "-m"]
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path)}
    with (
        subprocess.Popen([*idle, "dagster._daemon", "run"], env=environment) as daemon,
        subprocess.Popen([*idle, "dagster_webserver", "--shutdown-pipe", "4"], env=environment) as webserver,
        subprocess.Popen([*idle, "dagster_webserver", "--read-only"], env=environment) as shows,
    ):
        try:
            both = sorted([daemon.pid, webserver.pid])
            assert sorted(servers_of(tmp_path)) == both
            with pytest.raises(
                StudyError, match=r"serves this study already \(processes .* end them first \(kill \d+ \d+\)"
            ):
                cli._require_no_servers(tmp_path)
            cli._require_no_servers(tmp_path / "another")
        finally:
            for process in (daemon, webserver, shows):
                process.kill()
    cli._require_no_servers(tmp_path)


def test_output_that_nobody_reads_to_its_end_is_no_error(finished_study):
    program = "import sys; from ppl_assets.cli import main; sys.exit(main(['selections']))"
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PPL_ASSETS_STUDY": str(finished_study.file)}
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(command, env=environment, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("hours", ["-1", "nan", "1e9", "soon"])
def test_hours_that_cannot_be_are_refused(hours, capsys):
    with pytest.raises(SystemExit):
        cli.main(["maintain", "--wait-hours", hours])
    assert f"'{hours}' is not accepted; give hours from 0 to 87,600" in capsys.readouterr().err


def test_the_ui_that_only_shows_has_no_daemon(started):
    command, _ = started("--read-only", "--port", "3001")
    assert command[0].endswith("dagster-webserver")
    assert command[1:] == ["--read-only", "-m", "ppl_assets.definitions", "-h", "127.0.0.1", "-p", "3001"]


def test_a_ui_that_only_shows_or_is_refused_removes_no_corpus(study, monkeypatch):
    """One whose folder is away for a moment: the sensor waits before it removes it."""
    monkeypatch.setenv("PPL_ASSETS_STUDY", str(study.file))
    monkeypatch.setattr(cli, "_require_free", lambda *_: None)

    def corpora(*more: str) -> list[str]:
        with study_instance(study.platform.study, registers=False) as instance:
            instance.add_dynamic_partitions("corpus", list(more))
            return list(instance.get_dynamic_partitions("corpus"))

    def opened(*options: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(cli.os, "execve", _instead)
            with pytest.raises(_Replaced):
                cli.main(["ui", *options])

    assert "away" in corpora("away")
    lock = cli._lock_of_the_ui(study.platform.root)
    assert cli.main(["ui"]) == 2
    opened("--read-only")
    assert "away" in corpora()
    os.close(lock)
    opened()
    assert "away" not in corpora()


def test_the_prompt_reads_and_changes_tables_only_when_asked(study, monkeypatch, capfd):
    monkeypatch.setenv("PPL_ASSETS_STUDY", str(study.file))
    assert cli.main(["sql", "SELECT count(*) > 0 AS some FROM chunks"]) == 0
    assert "true" in capfd.readouterr().out
    nothing = "DELETE FROM chunks WHERE false"
    assert cli.main(["sql", nothing]) != 0
    assert "read-only" in capfd.readouterr().err
    assert cli.main(["sql", "--write", nothing]) == 0


def test_looking_at_the_status_removes_no_corpus(study, monkeypatch):
    monkeypatch.setenv("PPL_ASSETS_STUDY", str(study.file))
    with study_instance(study.platform.study) as instance:
        instance.add_dynamic_partitions("corpus", ["away"])
    assert cli.main(["status"]) == 0
    with study_instance(study.platform.study, registers=False) as instance:
        assert "away" in instance.get_dynamic_partitions("corpus")
    with study_instance(study.platform.study) as instance:
        assert "away" not in instance.get_dynamic_partitions("corpus")
