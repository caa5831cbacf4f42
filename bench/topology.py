"""Two namespaces and a veth pair: the GWLB's side on core 0, the appliance on core 1.

Each end of the pair is polled by a kernel thread of its own (threaded NAPI), pinned to its side's
core, so that receiving costs the receiver's core and can be charged to it.
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
GWLB_DEVICE: Final = "bench0"
APPLIANCE_DEVICE: Final = "bench1"
GWLB_ADDRESS: Final = "10.98.0.1"
APPLIANCE_ADDRESS: Final = "10.98.0.10"
GWLB_MAC: Final = bytes.fromhex("0a0000000001")
APPLIANCE_MAC: Final = bytes.fromhex("0a0000000010")
GWLB_CORE: Final = 0
APPLIANCE_CORE: Final = 1
NICE: Final = -15
"""Of all that is measured: other processes of the machine come second."""
_INNER_NETWORK: Final = "10.77.0.0/16"
_MTU_BYTES: Final = "3000"
"""What XDP takes in one piece, on the GWLB's side."""
_CLONE_NEWNET: Final = 0x40000000
_SIDES: Final = (
    (GWLB, GWLB_DEVICE, GWLB_ADDRESS, GWLB_MAC),
    (APPLIANCE, APPLIANCE_DEVICE, APPLIANCE_ADDRESS, APPLIANCE_MAC),
)


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
        _connect()
        _let_forward()
        _enter(GWLB)
        run("ping", "-c1", "-w10", APPLIANCE_ADDRESS)  # carrier may take a moment
        yield
    finally:
        _setns(own)
        os.close(own)
        _remove()


def _connect() -> None:
    """A veth pair whose ends know each other: nothing is resolved while it is measured."""
    run(
        *("ip", "-n", GWLB, "link", "add", "name", GWLB_DEVICE, "address", GWLB_MAC.hex(":")),
        *("mtu", _MTU_BYTES, "type", "veth", "peer", "name", APPLIANCE_DEVICE),
        *("address", APPLIANCE_MAC.hex(":"), "mtu", _MTU_BYTES, "netns", APPLIANCE),
    )
    for side, other in (_SIDES, _SIDES[::-1]):
        namespace, device, address, _ = side
        run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", device)
        run("ip", "-n", namespace, "link", "set", device, "up")
        run(
            *("ip", "-n", namespace, "neighbour", "replace", other[2], "lladdr"),
            *(other[3].hex(":"), "dev", device, "nud", "permanent"),
        )
        # With GRO a veth queues what comes, XDP frames too, for its polling.
        run(*inside(namespace, "ethtool", "-K", device, "gro", "on"))


def _let_forward() -> None:
    settings = ["net.ipv4.ip_forward=1"]
    for key in ("all", "default", APPLIANCE_DEVICE):
        settings += [f"net.ipv4.conf.{key}.{name}=0" for name in ("rp_filter", "send_redirects")]
    run(*inside(APPLIANCE, "sysctl", "-qw", *settings))
    run("ip", "-n", APPLIANCE, "route", "add", _INNER_NETWORK, "via", GWLB_ADDRESS)


def pin_polling(namespace: str, device: str, core: int) -> int:
    """Let a device be polled by a thread of its own on a core; the thread's process id."""
    before = set(kernel_threads(f"napi/{device}"))  # another bench may run on this machine
    script = f"echo 1 > /sys/class/net/{device}/threaded"
    run(*inside(namespace, "sh", "-c", script))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for pid in set(kernel_threads(f"napi/{device}")) - before:
            os.sched_setaffinity(pid, {core})
            os.setpriority(os.PRIO_PROCESS, pid, NICE)
            return pid
        time.sleep(0.05)
    message = f"the kernel started no polling thread for {device}"
    raise RuntimeError(message)


def moderate(namespace: str, device: str, period_us: int) -> None:
    """Let a device be polled at a fixed period (0: at once), whatever comes in the meantime.

    Waking the polling thread costs the sender's core up to a fifth of all its time on a virtual
    machine, as no doorbell of a real network card does.
    """
    files = {"gro_flush_timeout": 1000 * period_us, "napi_defer_hard_irqs": period_us and 1 << 30}
    script = "; ".join(f"echo {v} > /sys/class/net/{device}/{name}" for name, v in files.items())
    run(*inside(namespace, "sh", "-c", script))


def kernel_threads(prefix: str) -> list[int]:
    """The threads whose names start like this."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().startswith(prefix):
                found.append(int(comm.parent.name))
    return found


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
