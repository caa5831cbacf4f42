"""The kernel path's place in the BPF file system: what is pinned there outlives the daemon.

    /sys/fs/bpf/gwlbtun/<network namespace>/maps-<ABI version>/<map>
                                           /links/<interface index>-<ingress, egress or xdp>

Where the kernel has no tcx, a filter's program stands in the place of a link. Every network
namespace has a place of its own, so that several appliances can share one host.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gwlbtun.bpf.abi import ABI_VERSION
from gwlbtun.errors import KernelError

_BPFFS: Final = Path("/sys/fs/bpf")
_BPFFS_MAGIC: Final = 0xCAFE4A11
_ROOT: Final = _BPFFS / "gwlbtun"


class PinDirectory:
    """Where one daemon's maps and links are pinned."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.maps = path / f"maps-{ABI_VERSION}"
        self._links = path / "links"

    @classmethod
    def of_this_namespace(cls) -> PinDirectory:
        """The place of the network namespace that we are in."""
        return cls(_ROOT / str(os.stat("/proc/self/ns/net").st_ino))  # noqa: PTH116 - no real file

    def create(self) -> None:
        """Make the directories; mounts the BPF file system where nobody has. Raises KernelError."""
        if not _is_bpffs(_BPFFS):
            _mount_bpffs()
        try:
            for path in (self.maps, self._links):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KernelError(f"cannot create {self.path}: {error.strerror}") from error

    def is_there(self) -> bool:
        """Whether something is pinned; what we may not look at (a BPF file system is root's where
        nobody has prepared it) is not ours.
        """
        try:
            return self.path.exists()
        except PermissionError:
            return False

    def link(self, ifindex: int, kind: str) -> Path:
        """Where a link of an interface is pinned."""
        return self._links / f"{ifindex}-{kind}"

    def links(self, kind: str = "*") -> Iterator[tuple[int, Path]]:
        """All pinned links, or those of one kind, by interface index."""
        for path in sorted(self._links.glob(f"*-{kind}")):
            yield int(path.name.partition("-")[0]), path

    def has_other_version(self) -> bool:
        """Whether maps of another ABI version are pinned."""
        return any(path != self.maps for path in self.path.glob("maps-*"))

    def forget_maps(self, *, is_own_version: bool) -> None:
        """Unpin maps: ours, or those of other versions. Programs that use them keep them alive."""
        for path in self.path.glob("maps-*"):
            if (path == self.maps) == is_own_version:
                shutil.rmtree(path)
        self.maps.mkdir(mode=0o700, exist_ok=True)

    def forget_dead_links(self) -> None:
        """Unpin links whose interface is gone: the kernel has detached them."""
        alive = {index for index, _ in socket.if_nameindex()}
        for ifindex, path in list(self.links()):
            if ifindex not in alive:
                path.unlink()

    def remove(self) -> bool:
        """Unpin everything, which detaches and frees it; False when there was nothing."""
        if not self.is_there():
            return False
        for _, path in list(self.links()):
            path.unlink()
        shutil.rmtree(self.path)
        with contextlib.suppress(OSError):  # others are there
            _ROOT.rmdir()
        return True


def _is_bpffs(path: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_long * 32)()  # struct statfs is 120 bytes on both machines
    return libc.statfs(str(path).encode(), buffer) == 0 and buffer[0] == _BPFFS_MAGIC


def _mount_bpffs() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", str(_BPFFS).encode(), b"bpf", 0, b"mode=0700"):
        reason = os.strerror(ctypes.get_errno())
        raise KernelError(
            f"no BPF file system on {_BPFFS} and none can be mounted ({reason}):"
            f" mount -t bpf bpf {_BPFFS}"
        )
