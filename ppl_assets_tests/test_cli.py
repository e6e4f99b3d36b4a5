"""The ``ppl-assets`` command: what it starts."""

import pytest

from ppl_assets import cli


class _Replaced(BaseException):
    """The process would be another program from here on: its path, command line and environment."""


def _instead(*program):
    raise _Replaced(*program)


@pytest.fixture
def started(finished_study, monkeypatch):
    """What ``ppl-assets ui`` with these options would start: its command line and environment."""
    monkeypatch.setenv("PPL_ASSETS_STUDY", str(finished_study.file))

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


def test_the_ui_that_only_shows_has_no_daemon(started):
    command, _ = started("--read-only", "--port", "3001")
    assert command[0].endswith("dagster-webserver")
    assert command[1:] == ["--read-only", "-m", "ppl_assets.definitions", "-h", "127.0.0.1", "-p", "3001"]
