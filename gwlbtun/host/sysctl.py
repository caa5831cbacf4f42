"""Reading and writing /proc/sys/net, one key at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_NET: Final = Path("/proc/sys/net")


def read_net(*path: str) -> str | None:
    """The value of net.<path>, or None where the kernel has no such key (any more)."""
    try:
        return _NET.joinpath(*path).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_net(value: int, *path: str) -> str | None:
    """Set net.<path>; None when it was done, else why not, in words."""
    try:
        _NET.joinpath(*path).write_text(str(value))
    except OSError as error:
        return f"cannot set net.{'.'.join(path)} = {value}: {error.strerror}"
    return None


def net_interfaces() -> list[str]:
    """Every interface that has IPv4 settings, without ``all`` and ``default``."""
    names = (entry.name for entry in (_NET / "ipv4/conf").iterdir())
    return sorted(name for name in names if name not in ("all", "default"))
