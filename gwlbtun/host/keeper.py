"""Holds TUN descriptors while the daemon is away, so that its devices keep their carrier.

A persistent TUN device survives its process, but without an open descriptor it has no carrier, and
a mirred redirect drops what it should send there. Under systemd the service manager keeps the
descriptors (host.systemd); elsewhere this small process does: it listens on a Unix socket, holds
what it is given by name, and gives it back to whoever starts next.

    PUT <name> + descriptor → OK      TAKE → <name> + descriptor … END
    DROP <name> → OK                  QUIT → OK, and it ends
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from gwlbtun.errors import KernelError

_MAX_MESSAGE: Final = 64
_TIMEOUT_S: Final = 1.0
_START_S: Final = 5.0


class Keeper:
    """The daemon's side. Everything raises OSError when the process does not answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_there(self) -> bool:
        """Whether the process answers; one that does has never lost anything."""
        client = self._connect()
        if client is None:
            return False
        client.close()
        return True

    def take(self) -> dict[str, int]:
        """Copies of all descriptors that are held, by name."""
        held: dict[str, int] = {}
        client = self._connect()
        if client is None:
            return held
        with client:
            client.send(b"TAKE")
            while True:
                message, fds, _, _ = socket.recv_fds(client, _MAX_MESSAGE, 1)
                if message == b"END" or not message:
                    return held
                os.set_inheritable(fds[0], False)
                held[message.decode()] = fds[0]

    def put(self, name: str, fd: int) -> None:
        """Let a copy of a descriptor be held."""
        client = self._connect()
        if client is None:
            raise ConnectionError("the keeper of descriptors is gone")
        with client:
            socket.send_fds(client, [f"PUT {name}".encode()], [fd])
            client.recv(_MAX_MESSAGE)

    def drop(self, name: str) -> None:
        """Close the copy."""
        self._tell(f"DROP {name}")

    def quit(self) -> bool:
        """End the process, which closes all copies; False when there was none."""
        return self._tell("QUIT")

    def _tell(self, message: str) -> bool:
        client = self._connect()
        if client is None:
            return False
        with client:
            client.send(message.encode())
            client.recv(_MAX_MESSAGE)
        return True

    def _connect(self) -> socket.socket | None:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(_TIMEOUT_S)
        try:
            client.connect(str(self._path))
        except OSError:
            client.close()
            return None
        return client

    def start(self) -> None:
        """Start the process if there is none, in a session of its own: no terminal's Ctrl-C and no
        shell's exit reaches it. Raises KernelError.
        """
        if self.is_there():
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        subprocess.Popen(
            [sys.executable, "-m", "gwlbtun.host.keeper", str(self._path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self.is_there():
                return
            time.sleep(0.01)
        raise KernelError(f"the keeper of descriptors does not answer on {self._path}")


def main(path: str) -> None:
    """The process: one client at a time, one message after the other."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o177)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    Path(path).unlink(missing_ok=True)
    server.bind(path)
    server.listen()
    held: dict[str, int] = {}
    while True:
        client, _ = server.accept()
        with client:
            client.settimeout(_TIMEOUT_S)
            try:
                is_over = _serve(client, held)
            except OSError:
                continue
        if is_over:
            Path(path).unlink(missing_ok=True)
            return


def _serve(client: socket.socket, held: dict[str, int]) -> bool:
    """Answer one message; whether it was the last."""
    message, fds, _, _ = socket.recv_fds(client, _MAX_MESSAGE, 1)
    if not message:  # somebody only wanted to know whether we are there
        return False
    command, _, name = message.decode().partition(" ")
    if command == "PUT" and fds:
        _forget(held, name)
        held[name] = fds[0]
    elif command == "DROP":
        _forget(held, name)
    elif command == "TAKE":
        for held_name, fd in held.items():
            socket.send_fds(client, [held_name.encode()], [fd])
        client.send(b"END")
        return False
    elif command == "QUIT":
        for each in list(held):
            _forget(held, each)
    client.send(b"OK")  # not before it is done
    return command == "QUIT"


def _forget(held: dict[str, int], name: str) -> None:
    fd = held.pop(name, None)
    if fd is not None:
        os.close(fd)


if __name__ == "__main__":
    main(sys.argv[1])
