"""Leftovers that belong to somebody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gwlbtun.control.leftovers import remove_leftovers
from gwlbtun.host.pins import PinDirectory

pytestmark = pytest.mark.namespace


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An unprivileged user, and directories that are root's alone, as systemd mounts bpffs."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(closed))
    monkeypatch.setattr("gwlbtun.host.pins._ROOT", closed / "gwlbtun")
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.usefixtures("nobody")
def test_leftovers_when_they_cannot_be_looked_at_are_none() -> None:
    """A daemon that is not root starts all the same."""
    with pytest.raises(PermissionError):
        PinDirectory.of_this_namespace().path.exists()
    assert remove_leftovers() == []
    assert PinDirectory.of_this_namespace().remove() is False
