"""The lab's command line, as far as it goes without a lab."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from gwlbtun.lab import cli, instance, plan, topology
from gwlbtun.lab.table import format_table


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_lab_parser(parser.add_subparsers())
    return cli.run_lab(parser.parse_args(["lab", *words]))


@pytest.fixture(autouse=True)
def _no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without labs, and root on it."""
    monkeypatch.setattr(plan, "STATE_ROOT", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)


def test_down_when_there_is_no_lab_is_content(capsys: pytest.CaptureFixture[str]) -> None:
    """Down may be called twice."""
    assert run("down", "--name", "mine") == 0
    assert "no lab 'mine'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["shell", "client"],
        ["pcap", "geneve-1"],
        ["deregister", "1"],
        ["deregister", "one"],
        ["set", "rebalance"],
        ["set", "rebalance=true"],
        ["up", "--endpoints", "0"],
        ["up", "--name", "No Such"],
    ],
)
def test_command_when_it_cannot_be_says_so_in_one_sentence(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad usage: one sentence on standard error, exit status 2."""
    monkeypatch.setattr(cli.shutil, "which", lambda _: "/usr/bin/tcpdump")
    assert run(*words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_pcap_when_tcpdump_is_missing_names_the_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that the machine lacks is a fault of the machine: exit status 1."""
    monkeypatch.setattr(cli.shutil, "which", lambda _: None)
    assert run("pcap", "client-1") == 1
    assert "package tcpdump" in capsys.readouterr().err


def test_command_when_not_root_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Namespaces need privileges."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run("status") == 1
    assert "as root" in capsys.readouterr().err


def test_up_when_the_lab_is_there_already_changes_nothing(tmp_path: Path) -> None:
    """A second up is an error and leaves the first lab alone."""
    (tmp_path / "mine").mkdir()
    assert run("up", "--name", "mine") == 2
    assert (tmp_path / "mine").exists()


def test_default_appliance_when_started_uses_a_hook_that_can_run() -> None:
    """The hook is part of the package, executable."""
    assert os.access(instance.INSPECT_HOOK, os.X_OK)
    assert str(instance.INSPECT_HOOK) in instance.default_appliance()


def test_table_when_formatted_has_columns_as_wide_as_needed() -> None:
    """Plain text, no trailing blanks."""
    assert format_table(("a", "long"), [("wide", "b")]) == "a     long\n----  ----\nwide  b"


def test_up_when_a_namespace_of_its_name_exists_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what the lab has built itself is ever removed."""
    monkeypatch.setattr(topology, "namespace_exists", lambda name: name == "mine-server-2")
    assert run("up", "--name", "mine") == 2
    assert "mine-server-2 exists already" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()
