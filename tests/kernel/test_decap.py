"""The decap program against the Python core: every vector, and thousands of mutated ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwlbtun.reasons import DropReason
from gwlbtun.wire.geneve import build_base
from gwlbtun.wire.gwlb import AWS
from gwlbtun.wire.inet import InnerFlow, parse_inner
from tests.kernel.programs import MAX_DATAGRAM_BYTES, Programs, programs
from tests.unit.datapath.player import Appliance
from tests.vectors import DECAP_VECTORS, Vector
from tests.vectors.geneve import ENDPOINT, NODE, OTHER_NODE

pytestmark = pytest.mark.namespace

VECTORS: Final = [
    v for v in DECAP_VECTORS if v.profile == "aws" and len(v.datagram) <= MAX_DATAGRAM_BYTES
]
LEFT: Final = {
    "ipv4-padding-behind",
    "ipv4-unreadable-error",
    "ipv4-error-without-quote",
    "ipv4-error-about-ipv6",
    "ipv6-padding-behind",
    "ipv6-unreadable-error",
    "ipv6-error-without-quote",
    "options-reserved-option-bits",
    "reserved-bits",
    "vni",
    "critical-flag-without-critical-option",
}
"""Usual options, but something else is so unusual that user space judges."""


@pytest.fixture(scope="module")
def kernel() -> Iterator[Programs]:
    with programs() as loaded:
        for endpoint_id in sorted({int(v.verdict) for v in VECTORS if not _is_drop(v)}):
            loaded.serve(endpoint_id)
        yield loaded


def _is_drop(vector: Vector) -> bool:
    return isinstance(vector.verdict, DropReason)


def _has_usual_options(vector: Vector) -> bool:
    is_ipv6 = vector.inner[0] >> 4 == 6
    usual = AWS.build_header(int(vector.verdict), 0, is_ipv6=is_ipv6)
    own = vector.header
    return len(own) == len(usual) and own[8:12] == usual[8:12] and own[32:36] == usual[32:36]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.name)
def test_decap_when_given_a_vector_agrees_with_the_python_core(
    kernel: Programs, vector: Vector
) -> None:
    """What the core drops is left to user space, to be counted there; what has the options of a
    real GWLB is taken in the kernel, byte for byte; any other layout is left.
    """
    inner = kernel.decap(vector.datagram)
    if _is_drop(vector):
        assert inner is None
    elif _has_usual_options(vector) and vector.name not in LEFT:
        assert inner == vector.inner
    else:
        assert inner is None


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.name)
def test_decap_when_it_takes_a_packet_has_learned_its_flow(vector: Vector) -> None:
    """Whatever the kernel takes can go out again: the same look-up, the same outer headers."""
    if _is_drop(vector):
        return
    with programs() as kernel:
        flows = kernel.serve(int(vector.verdict))
        if kernel.decap(vector.datagram) is None:
            return
        entry = flows.find(parse_inner(vector.inner))
        assert entry is not None
        is_ipv6 = vector.inner[0] >> 4 == 6
        assert build_base(is_ipv6, len(entry.options)) + entry.options == vector.header
        assert (entry.gwlb, entry.appliance, entry.port) == (
            NODE.source,
            NODE.destination,
            NODE.port,
        )


def test_decap_when_the_peer_is_not_allowed_leaves_the_packet(kernel: Programs) -> None:
    """The allow-list is user space's; the kernel takes only peers that it was told of."""
    vector = next(v for v in VECTORS if _has_usual_options(v) and not _is_drop(v))
    assert kernel.decap(vector.datagram, OTHER_NODE) is None


def test_decap_when_the_endpoint_is_unknown_leaves_the_packet() -> None:
    """An endpoint is created in user space."""
    vector = next(v for v in VECTORS if not _is_drop(v) and _has_usual_options(v))
    with programs() as kernel:
        assert kernel.decap(vector.datagram) is None


def test_decap_when_the_device_is_gone_leaves_the_packet() -> None:
    """A stale entry never black-holes: user space opens the endpoint anew."""
    vector = next(v for v in VECTORS if not _is_drop(v) and _has_usual_options(v))
    with programs() as kernel:
        kernel.serve(int(vector.verdict), gwi=987_654)
        assert kernel.decap(vector.datagram) is None


@settings(max_examples=3000, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_decap_when_packets_are_mutated_never_takes_what_the_core_drops(
    kernel: Programs, data: st.DataObject
) -> None:
    """Both executors, any bytes: the kernel takes a packet only if the core would, with the same
    inner packet and the same flow.
    """
    vector = data.draw(st.sampled_from(VECTORS))
    datagram = bytearray(vector.datagram)
    for _ in range(data.draw(st.integers(1, 4))):
        if datagram:
            place = data.draw(st.integers(0, len(datagram) - 1))
            datagram[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del datagram[data.draw(st.integers(0, len(datagram))) :]
    inner = kernel.decap(bytes(datagram))
    if inner is None:
        return
    appliance = Appliance()
    appliance.open(int.from_bytes(datagram[12:20], "big"))
    endpoint = appliance.judge(bytes(datagram))
    assert not isinstance(endpoint, DropReason)
    assert inner == datagram[appliance.decap.inner_offset :]


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_flow_keys_when_made_in_c_and_in_python_are_equal(data: st.DataObject) -> None:
    """What decap files, the daemon finds, for the packet itself and for its answer."""
    vector = data.draw(
        st.sampled_from([v for v in VECTORS if not _is_drop(v) and _has_usual_options(v)])
    )
    with programs() as kernel:
        flows = kernel.serve(ENDPOINT)
        datagram = vector.header[:12] + ENDPOINT.to_bytes(8, "big") + vector.datagram[20:]
        if kernel.decap(datagram) is None:
            return
        inner = parse_inner(vector.inner)
        assert flows.find(inner) is not None
        if inner.key and inner.quote is None:
            answer = InnerFlow(inner.is_ipv6, inner.table, inner.reverse)
            assert flows.find(answer) is not None
