"""What the user-space path tells the kernel path and asks it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gwlbtun.datapath.endpoints import Endpoint
from gwlbtun.datapath.flows import Flow
from gwlbtun.reasons import DropReason
from gwlbtun.wire.inet import InnerFlow, parse_inner
from tests.unit.datapath.player import Appliance, outside
from tests.vectors.geneve import COOKIE, ENDPOINT, NODE, OTHER_NODE, gwlb, gwlb_header
from tests.vectors.inet import CLIENT_4, CLIENT_6, Ends, fragments, udp, udp_of_size


@dataclass
class Entry:
    """One entry of the kernel's maps."""

    options: bytes
    gwlb: bytes = OTHER_NODE.source
    appliance: bytes = OTHER_NODE.destination
    port: int = OTHER_NODE.port


@dataclass
class Kernel:
    """The kernel path's flows, by the key of the packet that asks."""

    entries: dict[bytes, Entry] = field(default_factory=dict)
    taken_over: list[InnerFlow] = field(default_factory=list)

    def take_over(self, inner: InnerFlow, _now: int) -> None:
        """Remember what user space holds."""
        self.taken_over.append(inner)

    def find(self, inner: InnerFlow) -> Entry | None:
        """By the packet's own key or its fragment's."""
        return self.entries.get(inner.key or inner.fragment)


@pytest.fixture
def appliance() -> Appliance:
    return Appliance()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def endpoint(appliance: Appliance, kernel: Kernel) -> Endpoint:
    opened = appliance.open(ENDPOINT)
    opened.kernel = kernel
    return opened


@pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])
@pytest.mark.usefixtures("endpoint")
def test_flow_when_learned_in_user_space_is_taken_over(
    appliance: Appliance, kernel: Kernel, ends: Ends
) -> None:
    """Else the kernel would answer it with what it knows of the reverse direction. Every time: the
    usual packet's fast way is closed as long as there is a kernel path.
    """
    for _ in range(2):
        appliance.judge(gwlb(udp(ends)))
    assert kernel.taken_over == [parse_inner(udp(ends))] * 2


@pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])
def test_packet_when_the_kernel_knows_its_flow_returns_by_the_kernels_entry(
    appliance: Appliance, kernel: Kernel, endpoint: Endpoint, ends: Ends
) -> None:
    """It came up because it is unusual; the kernel's entry is newer than any of ours."""
    appliance.judge(gwlb(udp(ends), COOKIE + 1))
    header = gwlb_header(udp(ends), COOKIE)
    kernel.entries[parse_inner(udp(ends)).key] = Entry(header[8:])
    flow = appliance.send(udp(ends), endpoint)
    assert isinstance(flow, Flow)
    assert outside(flow) == OTHER_NODE.return_outer + header


def test_packet_when_the_kernel_does_not_know_its_flow_returns_by_our_own(
    appliance: Appliance, endpoint: Endpoint
) -> None:
    """User space holds what it has taken over; what neither knows has no cookie."""
    appliance.judge(gwlb(udp(CLIENT_4)))
    flow = appliance.send(udp(CLIENT_4), endpoint)
    assert isinstance(flow, Flow)
    assert outside(flow) == NODE.return_outer + gwlb_header(udp(CLIENT_4))
    assert appliance.send(udp(CLIENT_6), endpoint) is DropReason.MISSING_FLOW_ENTRY


def test_fragments_when_their_first_left_by_the_kernel_path_are_released_by_a_retry(
    appliance: Appliance, kernel: Kernel, endpoint: Endpoint
) -> None:
    """Only the kernel's fragment map then tells their flow."""
    _, *later = fragments(udp_of_size(CLIENT_4, 4000), 1000)
    for packet in later:
        assert appliance.send(packet, endpoint) is None
    assert endpoint.waiting
    appliance.encap.retry(endpoint, appliance.now)
    assert appliance.encap.released == []
    header = gwlb_header(later[0])
    kernel.entries[parse_inner(later[0]).fragment] = Entry(header[8:])
    appliance.encap.retry(endpoint, appliance.now)
    assert [packet for packet, _ in appliance.encap.released] == later
    assert {outside(flow) for _, flow in appliance.encap.released} == {
        OTHER_NODE.return_outer + header
    }
    assert not endpoint.waiting


def test_retry_when_there_is_no_kernel_path_releases_nothing(appliance: Appliance) -> None:
    """The endpoint may have lost it meanwhile."""
    endpoint = appliance.open(ENDPOINT)
    _, later, *_ = fragments(udp_of_size(CLIENT_4, 4000), 1000)
    assert appliance.send(later, endpoint) is None
    appliance.encap.retry(endpoint, appliance.now)
    assert appliance.encap.released == []
