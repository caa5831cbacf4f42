"""Generator and collector: compiled, loaded, run.

The generator is an XDP program that the kernel runs on frames of its own making, which then really
leave by the GWLB's veth (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18,
Documentation/bpf/bpf_prog_run.rst). The collector is an XDP program on the same veth.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final

from bench.load import Load
from bench.topology import GWLB_DEVICE
from gwlbtun.errors import KernelError
from gwlbtun.host.libbpf import BpfObject, TestRun, load_library

_HERE: Final = Path(__file__).parent
_ABI: Final = _HERE.parent / "gwlbtun" / "bpf"
_FLAGS: Final = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v2")
_BPF_XDP: Final = 37
"""The attach type of an XDP link."""
_LIVE_FRAMES: Final = 2
_BATCH: Final = 64
_FRAMES_PER_CALL: Final = 200_000
_XDP_MD: Final = struct.Struct("=IIIIII")
"""struct xdp_md: data, data_end, data_meta, ingress interface, its queue, egress interface."""
_PACE: Final = struct.Struct("=QQQQQII")
"""struct pace: interval, due, end_ns, sent, limit, flow, burst."""
_COUNTS: Final = struct.Struct("=QQ1024Q")
"""struct counts: good, wrong, packets per latency bucket."""
_FRACTION_BITS: Final = 8
_BURST: Final = 64
_SUB_BITS: Final = 5
_ZERO: Final = bytes(4)
_SETTLE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run at one rate gave. ``latency`` is the number of packets in each bucket."""

    sent: int
    returned: int
    wrong: int
    seconds: float
    latency: tuple[int, ...]

    @property
    def loss(self) -> float:
        """The share of packets that did not come back."""
        return 1 - self.returned / self.sent if self.sent else 1.0

    @property
    def returned_pps(self) -> float:
        """Packets that came back per second of sending."""
        return self.returned / self.seconds

    def latency_us(self, share: float) -> float:
        """The time within which this share of the packets was back."""
        left = share * sum(self.latency)
        for bucket, count in enumerate(self.latency):
            left -= count
            if left <= 0 < count:
                return bucket_to_ns(bucket) / 1000
        return 0.0


class Traffic:
    """Both programs, on the GWLB's veth. To be used inside the GWLB's namespace."""

    def __init__(self) -> None:
        with TemporaryDirectory(prefix="gwlbtun-bench-") as folder:
            self._generator = _load("generator", Path(folder))
            self._collector = _load("collector", Path(folder))
        self._paces = self._generator.map("paces")
        self._counts = self._collector.map("counts")
        self._library = load_library()
        self._ifindex = socket.if_nametoindex(GWLB_DEVICE)
        self._link = self._attach()
        self._flow = 0

    def __enter__(self) -> Traffic:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._link)
        self._generator.close()
        self._collector.close()

    def use(self, load: Load) -> None:
        """Change to another kind of traffic."""
        self._generator.map("loads").put(_ZERO, load.template(is_return=False))
        self._collector.map("loads").put(_ZERO, load.template(is_return=True))
        self._frame = load.frame()
        self._flow = 0

    def run(self, rate_pps: float, seconds: float, packets: int = 1 << 62) -> Outcome:
        """Offer packets at a rate (0: as fast as it goes) for a time, or until so many are sent."""
        self._counts.put_per_cpu(_ZERO, bytes(_COUNTS.size))
        interval = int((1_000_000_000 << _FRACTION_BITS) / rate_pps) if rate_pps else 0
        start = time.monotonic_ns()
        end = start + int(seconds * 1e9)
        pace = (interval, start << _FRACTION_BITS, end, 0, packets, self._flow, _BURST)
        self._paces.put(_ZERO, _PACE.pack(*pace))
        sent = 0
        while time.monotonic_ns() < end and sent < packets:
            self._run_generator()
            sent, self._flow = self._progress()
        elapsed = (min(time.monotonic_ns(), end) - start) / 1e9
        time.sleep(_SETTLE_S)
        per_cpu = map(_COUNTS.unpack, self._counts.get_per_cpu(_ZERO))
        good, wrong, *latency = map(sum, zip(*per_cpu, strict=True))
        return Outcome(sent, good, wrong, elapsed, tuple(latency))

    def _attach(self) -> int:
        """The descriptor of an XDP link: it detaches with its last descriptor."""
        program = self._collector.program("collect")
        link: int = self._library.bpf_link_create(program, self._ifindex, _BPF_XDP, None)
        if link < 0:
            raise KernelError(f"cannot attach the collector to {GWLB_DEVICE}: {os.strerror(-link)}")
        return link

    def _progress(self) -> tuple[int, int]:
        _, _, _, sent, _, flow, _ = _PACE.unpack(self._paces.get(_ZERO) or b"")
        return sent, flow

    def _run_generator(self) -> None:
        context = _XDP_MD.pack(0, len(self._frame), 0, self._ifindex, 0, 0)
        options = TestRun(
            size=ctypes.sizeof(TestRun),
            data_in=self._frame,
            data_size_in=len(self._frame),
            ctx_in=context,
            ctx_size_in=len(context),
            repeat=_FRAMES_PER_CALL,
            flags=_LIVE_FRAMES,
            batch_size=_BATCH,
        )
        code = self._library.bpf_prog_test_run_opts(
            self._generator.program("generate"), ctypes.byref(options)
        )
        if code:
            reason = os.strerror(-code)
            raise KernelError(f"cannot send packets by BPF_PROG_TEST_RUN: {reason}")


def bucket_to_ns(bucket: int) -> int:
    """The lower end of a latency bucket; the inverse of to_bucket in collector.bpf.c."""
    power = bucket >> _SUB_BITS
    if power == 0:
        return bucket
    return (bucket - (power - 1 << _SUB_BITS)) << (power - 1)


def _load(name: str, folder: Path) -> BpfObject:
    target = folder / f"{name}.bpf.o"
    headers = f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}"  # asm/types.h on Debian
    subprocess.run(
        [
            "clang",
            *_FLAGS,
            f"-I{headers}",
            f"-I{_ABI}",
            "-c",
            _HERE / f"{name}.bpf.c",
            "-o",
            target,
        ],
        check=True,
    )
    loaded = BpfObject(target)
    try:
        loaded.load()
    except KernelError:
        loaded.close()
        raise
    return loaded
