"""The maps from the daemon's side: taking over, listing, aging, and the mirror of the C header."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from gwlbtun.bpf import abi
from gwlbtun.errors import KernelError
from gwlbtun.host.adoption import adopt_flows
from gwlbtun.host.offload import DROP_REASONS, OBJECT_FILE, Offload, OffloadSizes
from gwlbtun.wire.inet import TCP, UDP, parse_inner
from tests.kernel.programs import programs
from tests.vectors import DECAP_VECTORS
from tests.vectors.geneve import ENDPOINT

pytestmark = pytest.mark.namespace

LAYOUTS = {
    "struct settings": abi.SETTINGS,
    "struct endpoint": abi.ENDPOINT,
    "struct device": abi.DEVICE,
    "struct tunnel_key": abi.TUNNEL_KEY,
    "struct flow_key4": abi.FLOW_KEY4,
    "struct flow_key6": abi.FLOW_KEY6,
    "struct error_key4": abi.ERROR_KEY4,
    "struct error_key6": abi.ERROR_KEY6,
    "struct flow": abi.FLOW,
    "struct counters": abi.COUNTERS,
}
CONSTANTS = {
    "ABI_VERSION": abi.ABI_VERSION,
    "OPTIONS_BYTES": abi.OPTIONS_BYTES,
    "KEY_FLOW": abi.KEY_FLOW,
    "KEY_FRAGMENT": abi.KEY_FRAGMENT,
    "FLOW_IN_USER_SPACE": abi.FLOW_IN_USER_SPACE,
    "ENDPOINT_HAIRPIN": abi.ENDPOINT_HAIRPIN,
    "MAX_DROP_REASONS": abi.MAX_DROP_REASONS,
    **{f"DROP_{reason.name}": int(reason) for reason in DROP_REASONS},
    "offsetof(struct flow, seen_s)": 4 * abi.SEEN_WORD,
    "offsetof(struct flow, port)": 40,
    "offsetof(struct flow, flags)": 54,
    "offsetof(struct flow_key4, tag)": 12,
    "offsetof(struct flow_key6, tag)": 36,
    "offsetof(struct error_key4, quote)": 8,
    "offsetof(struct error_key6, quote)": 32,
}


def test_abi_when_compared_with_the_c_header_is_its_mirror(tmp_path: Path) -> None:
    """abi.py and abi.h say the same: the compiler is asked."""
    checks = [(f"sizeof({name})", layout.size) for name, layout in LAYOUTS.items()]
    checks += CONSTANTS.items()
    source = tmp_path / "abi_check.c"
    lines = [f'_Static_assert({what} == {number}, "{what}");' for what, number in checks]
    source.write_text('#include <stddef.h>\n#include "abi.h"\n' + "\n".join(lines))
    subprocess.run(
        ["clang", "-fsyntax-only", f"-I{OBJECT_FILE.parent}", str(source)], check=True, timeout=60
    )


def test_flow_when_taken_over_is_user_spaces_until_it_comes_in_again() -> None:
    """The kernel path then sends its packets up, and the next usual packet takes it back."""
    vector = next(v for v in DECAP_VECTORS if v.name == "ipv4-udp")
    inner = parse_inner(vector.inner)
    with programs() as kernel:
        flows = kernel.serve(int(vector.verdict))
        assert kernel.decap(vector.datagram) == vector.inner
        flows.take_over(inner, 1)
        assert flows.find(inner) is None
        assert kernel.decap(vector.datagram) == vector.inner
        assert flows.find(inner) is not None


def test_flows_when_idle_are_dropped_by_their_own_idle_times() -> None:
    """TCP and the rest have times of their own; a million entries take about half a second."""
    with programs() as kernel:
        for number, (protocol, seen_s) in enumerate(
            ((TCP, 100), (TCP, 700), (UDP, 700), (UDP, 950))
        ):
            key = abi.FLOW_KEY4.pack(bytes(8), number.to_bytes(4, "big"), 0, protocol, 0)
            kernel.flows4.put(key, abi.FLOW.pack(b"", b"", b"", b"", b"", b"", 0, 0, seen_s))
        assert sum(kernel.expire(1000, 350, 120)) == 2
        left = {
            keys[i + 14] for keys, _ in kernel.flows4.batches() for i in range(0, len(keys), 16)
        }
        assert left == {TCP, UDP}


def test_flows_when_there_are_a_hundred_thousand_are_listed_whole() -> None:
    """BPF_MAP_LOOKUP_BATCH misses none and gives none twice."""
    count = 100_000
    with programs(max_flows=2 * count) as kernel:
        for number in range(count):
            key = abi.FLOW_KEY4.pack(number.to_bytes(8, "big"), bytes(4), 0, UDP, 0)
            kernel.flows4.put(key, bytes(abi.FLOW.size))
        seen = {
            keys[i : i + 16] for keys, _ in kernel.flows4.batches() for i in range(0, len(keys), 16)
        }
        assert len(seen) == count
        assert sum(kernel.expire(1000, 350, 120)) == 0


def test_endpoint_when_removed_and_added_again_finds_no_flow_of_its_earlier_life() -> None:
    """Indices of counters are used again at once, tags of flows are not."""
    vector = next(v for v in DECAP_VECTORS if v.name == "ipv4-udp")
    inner = parse_inner(vector.inner)
    with programs() as kernel:
        first = kernel.serve(int(vector.verdict))
        kernel.decap(vector.datagram)
        assert first.find(inner) is not None
        kernel.remove_endpoint(int(vector.verdict))
        assert kernel.decap(vector.datagram) is None
        again = kernel.serve(int(vector.verdict))
        assert again.find(inner) is None
        assert kernel.counters(0) == (0, 0, 0, 0)


def test_tags_when_flows_are_left_in_the_maps_are_not_used_again() -> None:
    """A tag of an endpoint that is gone may still be in its flows: the next endpoint must not get
    it, neither after a wrap nor in the next process.
    """
    with programs() as kernel:
        key = abi.FLOW_KEY4.pack(bytes(8), bytes(4), 3, UDP, abi.KEY_FLOW)
        kernel.flows4.put(key, bytes(abi.FLOW.size))
        kernel._tags = adopt_flows(kernel._flow_maps, lambda _: True)
        assert [kernel._new_tag() for _ in range(4)] == [1, 2, 4, 5]
        kernel._tags = set(range(1, 0x10000))
        assert kernel._new_tag() == 6


def test_flows_when_adopted_leave_out_what_is_no_longer_true() -> None:
    """What user space held ended with its process, and who may not send any more is forgotten."""
    good, bad = b"\x0a\0\x09\x04", b"\x0a\0\x09\x05"
    with programs() as kernel:
        for number, (gwlb, flags) in enumerate(
            ((good, 0), (bad, 0), (good, abi.FLOW_IN_USER_SPACE))
        ):
            key = abi.FLOW_KEY4.pack(number.to_bytes(8, "big"), bytes(4), 7, UDP, abi.KEY_FLOW)
            value = abi.FLOW.pack(b"", gwlb, b"", b"", b"", b"", flags, 0, 0)
            kernel.flows4.put(key, value)
        assert adopt_flows(kernel._flow_maps, lambda gwlb: gwlb == good) == {7}
        left = b"".join(keys for keys, _ in kernel.flows4.batches())
        assert left == abi.FLOW_KEY4.pack(bytes(8), bytes(4), 7, UDP, abi.KEY_FLOW)


def test_counters_when_packets_were_taken_are_exact() -> None:
    """Packets and inner bytes, summed over all CPUs."""
    vector = next(v for v in DECAP_VECTORS if v.name == "ipv4-udp")
    with programs() as kernel:
        kernel.serve(int(vector.verdict))
        for _ in range(5):
            kernel.decap(vector.datagram)
        assert kernel.counters(0) == (5, 5 * len(vector.inner), 0, 0)


def test_offload_when_the_object_file_is_missing_says_so(tmp_path: Path) -> None:
    """A clear reason, so that the daemon can fall back."""
    with pytest.raises(KernelError, match="was not built"):
        Offload(0x0108, OffloadSizes(10, 1), object_file=tmp_path / "none.bpf.o")


def test_offload_when_the_object_file_is_no_object_says_so(tmp_path: Path) -> None:
    """The same for a broken one."""
    broken = tmp_path / "broken.bpf.o"
    broken.write_bytes(struct.pack("!Q", ENDPOINT))
    with pytest.raises(KernelError, match=r"cannot open .*broken\.bpf\.o"):
        Offload(0x0108, OffloadSizes(10, 1), object_file=broken)
