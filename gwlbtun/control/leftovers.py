"""What a daemon that keeps its state leaves for the next one, and how all of it is removed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from pathlib import Path
from typing import Final

from gwlbtun.control.devices import endpoint_ids, remove_left_devices
from gwlbtun.control.hooks import Hooks, HookTarget
from gwlbtun.control.log import Logger
from gwlbtun.errors import KernelError
from gwlbtun.host.keeper import Keeper
from gwlbtun.host.offload import remove_left_filters
from gwlbtun.host.pins import PinDirectory
from gwlbtun.host.udp import open_receiver
from gwlbtun.wire.gwlb import endpoint_interfaces

_ANY_BUFFER_BYTES: Final = 65536
_HOOK_TIMEOUT_S: Final = 30
_RUN: Final = Path("/run/gwlbtun")


class StateDirectory:
    """One daemon's files: the keeper's socket and the lock, for this network namespace."""

    def __init__(self) -> None:
        run = Path(os.environ.get("RUNTIME_DIRECTORY", _RUN))
        self.path = run / str(os.stat("/proc/self/ns/net").st_ino)  # noqa: PTH116 - no real file
        self.keeper_socket = self.path / "keeper.sock"
        self._lock: int | None = None

    def is_there(self) -> bool:
        """Whether a daemon has kept something here; what we may not look at is not ours."""
        try:
            return self.path.exists()
        except PermissionError:
            return False

    def lock(self) -> None:
        """Be the only daemon here that keeps its state. Raises KernelError."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KernelError(
                "a gwlbtun daemon runs in this network namespace: stop it first"
            ) from error
        except OSError as error:
            raise KernelError(f"cannot lock {self.path}: {error.strerror}") from error

    def remove(self) -> None:
        """Remove the files; the lock ends with them."""
        for path in self.path.iterdir():
            path.unlink(missing_ok=True)
        self.path.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_leftovers() -> list[str]:
    """Remove every trace of an earlier daemon; what there was, in words. Raises KernelError, above
    all when a daemon is still running.
    """
    state = StateDirectory()
    pins = PinDirectory.of_this_namespace()
    if not state.is_there() and not pins.is_there():
        return []
    state.lock()
    remove_left_filters()
    found = []
    if pins.remove():
        found.append("programs and maps")
    if Keeper(state.keeper_socket).quit():
        found.append("keeper process")
    found += remove_left_devices()
    state.remove()
    return found


def tear_down(destroy: Path | None, log: Logger) -> list[str]:
    """``gwlbtun teardown``: the DESTROY hook for every endpoint that was left, then all traces.

    Having the port proves that no daemon runs here. Raises KernelError.
    """
    with open_receiver(_ANY_BUFFER_BYTES):
        if destroy is not None:
            asyncio.run(_destroy_all(destroy, log))
        found = remove_leftovers()
        remove_left_filters()
        return found


async def _destroy_all(destroy: Path, log: Logger) -> None:
    hooks = Hooks(None, destroy, _HOOK_TIMEOUT_S, log)
    for endpoint_id in endpoint_ids({name for _, name in socket.if_nameindex()}):
        await hooks.run("DESTROY", HookTarget(*endpoint_interfaces(endpoint_id), endpoint_id))
