"""The service manager's side channel: sd_notify(3) and the descriptor store, without libsystemd."""

from __future__ import annotations

import os
import socket
from typing import Final

_FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START."""


def notify(*lines: str, fds: tuple[int, ...] = ()) -> bool:
    """Send ``VARIABLE=value`` lines to the service manager; False where there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        socket.send_fds(sock, ["\n".join(lines).encode()], fds)
    return True


class SystemdStore:
    """FileDescriptorStoreMax= of the unit: descriptors that survive a restart (systemd 252)."""

    def is_there(self) -> bool:
        """The service manager outlives us."""
        return True

    def start(self) -> None:
        """Nothing to start."""

    def take(self) -> dict[str, int]:
        """What the service manager has kept, by name (sd_listen_fds_with_names(3))."""
        if os.environ.get("LISTEN_PID") != str(os.getpid()):
            return {}
        count = int(os.environ.pop("LISTEN_FDS", "0"))
        names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
        del os.environ["LISTEN_PID"]
        held = dict(zip(names, range(_FIRST_FD, _FIRST_FD + count), strict=False))
        for fd in held.values():
            os.set_inheritable(fd, False)
        return held

    def put(self, name: str, fd: int) -> None:
        """Let a copy of a descriptor be kept."""
        notify("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=(fd,))

    def drop(self, name: str) -> None:
        """Close the copy."""
        notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def clear(self) -> None:
        """Empty the store of what an earlier process has put there."""
        for name, fd in self.take().items():
            self.drop(name)
            os.close(fd)
