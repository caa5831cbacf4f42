"""Fixtures: a pair of namespaces, and the proof that none is left."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gwlbtun.lab.namespaces import NETNS_DIR
from gwlbtun.lab.plan import STATE_ROOT
from tests.namespace.harness import MARK, PREFIX, Rig, marked_processes


def _our_interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex() if name.startswith(("gwi-", "gwo-"))}


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """No namespace, process or interface of these tests outlives them."""
    before = _our_interfaces()
    os.environ[MARK] = PREFIX  # every child inherits it
    yield
    del os.environ[MARK]
    namespaces = [path.name for path in NETNS_DIR.glob(f"{PREFIX}*")]
    labs = [path.name for path in STATE_ROOT.glob(f"{PREFIX}*")]
    left = namespaces, labs, [*marked_processes()], _our_interfaces() - before
    assert left == ([], [], [], set())


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Namespaces for one test; the test starts the daemon with its own options."""
    with contextlib.closing(Rig(tmp_path)) as rig:
        yield rig


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Namespaces with an uplink of another MTU."""
    with contextlib.ExitStack() as stack:
        yield lambda mtu_bytes: stack.enter_context(contextlib.closing(Rig(tmp_path, mtu_bytes)))
