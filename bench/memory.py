"""What flows cost in memory: of the kernel's maps, and of the process that remembers them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from gwlbtun.bpf import abi

_MB: Final = 1_000_000
_KEY_BYTES: Final = {abi.FLOW_KEY4.size: "IPv4", abi.FLOW_KEY6.size: "IPv6"}
_LARGE: Final = 100_000
"""Entries from which on a map is a flow table."""


def rss_mb(pids: list[int]) -> float:
    """Resident memory of all processes together."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / _MB


def flow_maps_mb(pids: list[int]) -> dict[str, float]:
    """Of each flow map that the processes hold: megabytes per million entries it has room for.

    The kernel says in a descriptor's fdinfo what a map occupies ("memlock", whole since 6.4).
    """
    found = {}
    for pid in pids:
        for path in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                fields = dict(
                    line.split(":", 1) for line in path.read_text().splitlines() if ":" in line
                )
                entries = int(fields.get("max_entries", 0))
                family = _KEY_BYTES.get(int(fields.get("key_size", 0)))
                if family and entries >= _LARGE:
                    found[family] = int(fields["memlock"]) / entries
    return found
