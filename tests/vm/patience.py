"""A pytest plugin (-p tests.vm.patience): an emulated machine is twenty times as slow."""

from __future__ import annotations

from typing import Final

from tests.namespace import sockets

_PATIENCE_S: Final = 60.0

sockets.PATIENCE_S = _PATIENCE_S  # before tests.namespace.harness derives its own times from it
sockets.Gwlb.receive.__defaults__ = (_PATIENCE_S,)
