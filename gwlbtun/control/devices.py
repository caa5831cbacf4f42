"""The endpoints' devices: opened, kept over a restart where that is wanted, and closed.

Kept means: persistent, and a copy of the descriptor in a store (the service manager's, or a keeper
process), so that a device keeps its carrier and its packets while the daemon is away.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gwlbtun.control.log import Logger
from gwlbtun.errors import KernelError
from gwlbtun.host.tun import has_device, open_tun, set_persistent
from gwlbtun.wire.gwlb import endpoint_id_from_interface, endpoint_interfaces


class DescriptorStore(Protocol):
    """Holds copies of descriptors by name: host.keeper.Keeper, host.systemd.SystemdStore."""

    def is_there(self) -> bool:
        """Whether it still holds what it was given."""

    def start(self) -> None:
        """Be there. Raises KernelError."""

    def take(self) -> dict[str, int]:
        """Copies of everything that is held."""

    def put(self, name: str, fd: int) -> None:
        """Hold a copy."""

    def drop(self, name: str) -> None:
        """Close the copy."""


class Devices:
    """Opens and closes TUN devices; ``store`` says that they are kept, and ``directory`` notes
    which endpoints their CREATE hook has done with.
    """

    def __init__(self, store: DescriptorStore | None, directory: Path | None) -> None:
        self.is_kept = store is not None
        self._store = store
        self._directory = directory
        self._held = store.take() if store else {}
        self._open: dict[str, int] = {}

    def left_endpoints(self) -> list[int]:
        """Endpoints whose two devices an earlier process has left."""
        if not self.is_kept:
            return []
        names = {name for _, name in socket.if_nameindex()}
        return [i for i in endpoint_ids(names) if names.issuperset(endpoint_interfaces(i))]

    def is_created(self, endpoint_id: int) -> bool:
        """Whether the CREATE hook of an endpoint that was left had ended."""
        note = self._note(endpoint_id)
        return note is not None and note.exists()

    def note_created(self, endpoint_id: int, *, is_created: bool) -> None:
        """Write down for the next process whether the CREATE hook has ended."""
        note = self._note(endpoint_id)
        if note is None:
            return
        with suppress(OSError):  # a full disk: CREATE then runs once more
            if is_created:
                note.touch(mode=0o600)
            else:
                note.unlink(missing_ok=True)

    def open(self, name: str) -> int:
        """Open a device, or take over the one that was left. Raises KernelError."""
        fd = self._held.pop(name, None)
        if fd is not None and not has_device(fd):
            os.close(fd)
            fd = None
        if fd is None:
            fd = open_tun(name)
        if self._store is None:
            return fd
        try:
            set_persistent(fd, is_persistent=True)
            self._store.put(name, fd)
        except OSError as error:
            os.close(fd)
            raise KernelError(f"cannot keep {name}: {error}") from error
        self._open[name] = fd
        return fd

    def ensure_held(self, log: Logger) -> None:
        """Give all copies again to a store that has lost them. Blocks for some milliseconds, so
        let another thread call it.
        """
        if self._store is None or self._store.is_there():
            return
        try:
            self._store.start()
            for name, fd in list(self._open.items()):
                self._store.put(name, fd)
        except (KernelError, OSError) as error:
            log.warning("devices are not held for the next daemon", reason=str(error))
        else:
            log.warning("devices are held again: the keeper had died")

    def close(self, name: str, fd: int) -> None:
        """Close a device, which removes it, in whatever state it is."""
        self._open.pop(name, None)
        if self._store is not None:
            with suppress(OSError):  # nobody there who holds a copy
                self._store.drop(name)
            with suppress(OSError):  # deleted by somebody else
                set_persistent(fd, is_persistent=False)
        os.close(fd)

    def finish_adoption(self) -> None:
        """Let go of what was held for endpoints that are no more."""
        for name, fd in self._held.items():
            self.close(name, fd)
        self._held.clear()

    def _note(self, endpoint_id: int) -> Path | None:
        return self._directory and self._directory / f"created-{endpoint_id:016x}"


def endpoint_ids(names: set[str]) -> Iterator[int]:
    """The endpoints that have a ``gwi`` device among these."""
    for name in sorted(names):
        endpoint_id = endpoint_id_from_interface(name)
        if endpoint_id is not None and name.startswith("gwi-"):
            yield endpoint_id


def remove_left_devices() -> list[str]:
    """Remove devices that nobody has open any more; their names. Raises KernelError when a process
    still has one.
    """
    names = [name for _, name in socket.if_nameindex()]
    left = [name for name in names if endpoint_id_from_interface(name) is not None]
    for name in left:
        try:
            fd = open_tun(name)
        except KernelError as error:
            raise KernelError(f"{name} is in use: stop the daemon first ({error})") from error
        set_persistent(fd, is_persistent=False)
        os.close(fd)
    return left
