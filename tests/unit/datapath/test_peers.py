from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from gwlbtun.datapath import peers
from gwlbtun.datapath.peers import Peer, PeerTable
from gwlbtun.reasons import DropReason
from tests.vectors.geneve import NODE

APPLIANCE = "10.0.9.100"


def admit(table: PeerTable, source: str, port: int = 60000, destination: str = APPLIANCE) -> object:
    packed = IPv4Address(source).packed, port, IPv4Address(destination).packed
    return table.admit(repr(packed).encode(), *packed)


def test_peer_when_admitted_is_remembered_with_its_outer_header() -> None:
    """AWS: packets return to where the newest came from, from the address it was sent to."""
    table = PeerTable()
    peer = table.admit(b"key", NODE.source, NODE.port, NODE.destination)
    assert isinstance(peer, Peer)
    assert (peer.source, peer.port, peer.destination) == (NODE.source, NODE.port, NODE.destination)
    assert peer.outer == NODE.return_outer
    assert table.known == {b"key": peer}


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("10.0.8.255", False),
        ("10.0.9.0", True),
        ("10.0.9.255", True),
        ("10.0.10.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
    ],
)
def test_source_when_in_no_allowed_network_is_refused(source: str, is_allowed: bool) -> None:
    """Only the load balancer's subnets may reach into the endpoints' networks."""
    table = PeerTable([IPv4Network("10.0.9.0/24"), IPv4Network("192.0.2.7/32")])
    verdict = admit(table, source)
    assert isinstance(verdict, Peer) if is_allowed else verdict is DropReason.SOURCE_NOT_ALLOWED
    assert list(table.known.values()) == [verdict]


@pytest.mark.parametrize(
    ("source", "port", "destination"),
    [
        ("0.0.0.0", 60000, APPLIANCE),
        ("224.0.0.1", 60000, APPLIANCE),
        ("239.255.255.255", 60000, APPLIANCE),
        ("255.255.255.255", 60000, APPLIANCE),
        ("10.0.9.4", 0, APPLIANCE),
        ("10.0.9.4", 60000, "224.0.0.1"),
        ("10.0.9.4", 60000, "255.255.255.255"),
        ("10.0.9.4", 60000, "0.0.0.0"),
    ],
)
def test_peer_when_its_addresses_cannot_be_swapped_is_refused(
    source: str, port: int, destination: str
) -> None:
    """AWS: PacketsDroppedCount_InvalidGeneveTunnel; such a packet has no way back (RFC 1122)."""
    table = PeerTable()
    assert admit(table, source, port, destination) is DropReason.INVALID_GENEVE_TUNNEL
    nothing_allowed = PeerTable([])
    assert admit(nothing_allowed, source, port, destination) is DropReason.INVALID_GENEVE_TUNNEL
    assert admit(nothing_allowed, "10.0.9.4") is DropReason.SOURCE_NOT_ALLOWED


def test_peers_when_too_many_are_forgotten_and_learned_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every table is bounded: spoofed senders cost memory for 65536 verdicts at most."""
    assert peers._MAX_PEERS == 65536
    monkeypatch.setattr(peers, "_MAX_PEERS", 3)
    table = PeerTable()
    for number in range(4):
        assert isinstance(admit(table, f"10.0.9.{number}"), Peer)
    (verdict,) = table.known.values()
    assert isinstance(verdict, Peer)
    assert verdict.source == bytes((10, 0, 9, 3))
