from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gwlbtun.reasons import DropReason
from tests.pcap import Captured, read_datagrams
from tests.unit.datapath.player import Appliance
from tests.vectors.geneve import Node

CAPTURES = Path(__file__).parents[2] / "data" / "pcaps"
_PROTOCOL, _ENDPOINT_ID = DropReason.GENEVE_PROTOCOL, DropReason.INVALID_GWLB_ENDPOINT_ID
REASONS: dict[str, dict[DropReason, int]] = {
    "geneve-47101.pcap": {_PROTOCOL: 24},
    "geneve-arp.pcap": {_PROTOCOL: 1},
    "geneve-inner-tcp-bad-checksum.pcap": {_PROTOCOL: 1},
    "geneve-ipv6.pcap": {_ENDPOINT_ID: 2},
    "geneve-many-options.pcap": {_PROTOCOL: 10},
    "geneve-tagged-udp-packet.pcap": {_PROTOCOL: 4},
    "geneve-vxlan-dns-truncated.pcap": {_ENDPOINT_ID: 2},
    "geneve.pcap": {_PROTOCOL: 3, DropReason.INVALID_GENEVE_TUNNEL: 3},
}
"""Inner Ethernet (0x6558) or ARP, no options of AWS, and senders of UDP port 0."""


def judge(appliance: Appliance, one: Captured) -> object:
    """The verdict on the sender, and on the datagram if the sender is a peer."""
    peer = appliance.peers.admit(b"", one.src, one.src_port, one.dst)
    if isinstance(peer, DropReason):
        return peer
    return appliance.judge(one.payload, Node(one.src, one.src_port, one.dst))


def test_captures_when_listed_are_all_expected_ones() -> None:
    """A capture that is added says what is expected of it."""
    assert {path.name for path in CAPTURES.glob("*.pcap")} == set(REASONS)


@pytest.mark.parametrize("is_careful", [False, True], ids=["fast", "careful"])
@pytest.mark.parametrize("name", REASONS)
def test_capture_of_others_when_judged_is_refused_by_reason(name: str, is_careful: bool) -> None:
    """zeek/zeek, testing/btest/Traces/tunnels: none comes from a GWLB, so none is let in."""
    appliance = Appliance(is_careful=is_careful)
    verdicts = Counter(judge(appliance, one) for one in read_datagrams(CAPTURES / name))
    assert verdicts == REASONS[name]
