"""Two namespaces and a veth pair: the GWLB's side on core 0, the appliance on core 1.

The appliance's end of the pair is polled by a kernel thread of its own (threaded NAPI), pinned to
core 1, so that receiving costs the appliance's core and can be charged to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

GWLB: Final = "gwlbtun-bench-gwlb"
APPLIANCE: Final = "gwlbtun-bench-appliance"
GWLB_ADDRESS: Final = "10.98.0.1"
APPLIANCE_ADDRESS: Final = "10.98.0.10"
GWLB_CORE: Final = 0
APPLIANCE_CORE: Final = 1
INNER_NETWORK: Final = "10.77.0.0/16"
INNER_SERVERS: Final = "10.77.200.0/24"
_CLONE_NEWNET: Final = 0x40000000


def run(*command: str) -> str:
    """Run a command that has to succeed; its output."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout


def inside(namespace: str, *command: str) -> list[str]:
    """The command, to be run in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


@contextlib.contextmanager
def topology() -> Iterator[None]:
    """Build both namespaces, enter the GWLB's, and remove all of it at the end."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    _remove()
    try:
        for namespace in (GWLB, APPLIANCE):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        run(
            *("ip", "-n", GWLB, "link", "add", "name", "uplink0", "mtu", "9001", "type", "veth"),
            *("peer", "name", "uplink1", "mtu", "9001", "netns", APPLIANCE),
        )
        for namespace, device, address in (
            (GWLB, "uplink0", GWLB_ADDRESS),
            (APPLIANCE, "uplink1", APPLIANCE_ADDRESS),
        ):
            run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", device)
            run("ip", "-n", namespace, "link", "set", device, "up")
        run(*inside(APPLIANCE, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
        for key in ("all", "default", "uplink1"):
            run(*inside(APPLIANCE, "sysctl", "-qw", f"net.ipv4.conf.{key}.rp_filter=0"))
            run(*inside(APPLIANCE, "sysctl", "-qw", f"net.ipv4.conf.{key}.send_redirects=0"))
        run("ip", "-n", APPLIANCE, "route", "add", INNER_NETWORK, "via", GWLB_ADDRESS)
        run("ip", "-n", GWLB, "route", "add", "local", INNER_SERVERS, "dev", "lo")
        for key in ("all", "default", "uplink0"):
            run(*inside(GWLB, "sysctl", "-qw", f"net.ipv4.conf.{key}.rp_filter=0"))
        _enter(GWLB)
        run("ping", "-c1", "-W2", APPLIANCE_ADDRESS)
        yield
    finally:
        _setns(own)
        os.close(own)
        _remove()


def pin_polling() -> int:
    """Give the appliance's end a polling thread on its own core; the thread's process id."""
    # veth queues to the peer's polling only what it may have to aggregate: anything without TSO.
    run(*inside(GWLB, "ethtool", "-K", "uplink0", "tso", "off"))
    run(*inside(APPLIANCE, "ethtool", "-K", "uplink1", "gro", "on"))
    script = "echo 1 > /sys/class/net/uplink1/threaded"
    run(*inside(APPLIANCE, "sh", "-c", script))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for comm in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):
                if comm.read_text().startswith("napi/uplink1"):
                    pid = int(comm.parent.name)
                    os.sched_setaffinity(pid, {APPLIANCE_CORE})
                    return pid
        time.sleep(0.05)
    message = "the kernel started no polling thread for uplink1"
    raise RuntimeError(message)


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process so far, in nanoseconds."""
    total = 0
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        total += int(schedstat.read_text().split()[0])
    return total


def _enter(namespace: str) -> None:
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _setns(fd)
    finally:
        os.close(fd)


def _setns(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _remove() -> None:
    for namespace in (GWLB, APPLIANCE):
        if Path(f"/run/netns/{namespace}").exists():
            run("ip", "netns", "delete", namespace)
