"""Peers: the GWLB nodes that packets come from and return to.

A peer is one combination of sender address, UDP source port and the address written to. It is
judged once, when it is first seen; afterwards a packet costs one lookup of its raw socket metadata.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from gwlbtun.reasons import DropReason
from gwlbtun.wire.outer import build_outer

_MAX_PEERS: Final = 65536
"""Remembered at most; then the memory is emptied and fills again from what really comes in."""
_ANY_NETWORK: Final = IPv4Network("0.0.0.0/0")


class Peer:
    """Where a flow's packets return to; ``outer`` is ready to be put in front of them."""

    __slots__ = ("destination", "outer", "port", "source")

    def __init__(self, source: bytes, port: int, destination: bytes) -> None:
        self.source = source
        self.port = port
        self.destination = destination
        self.outer = build_outer(destination, source, port)


class PeerTable:
    """Judges peers by the allow-list and remembers the verdict under an opaque key."""

    def __init__(self, allowed: Iterable[IPv4Network] = (_ANY_NETWORK,)) -> None:
        self.known: dict[bytes, Peer | DropReason] = {}
        self._allowed = tuple(allowed)

    def admit(self, key: bytes, source: bytes, port: int, destination: bytes) -> Peer | DropReason:
        """Judge a peer that is not in ``known`` yet. Addresses are 4 bytes, network order."""
        if len(self.known) >= _MAX_PEERS:
            self.known.clear()
        verdict = self.known[key] = self._judge(source, port, destination)
        return verdict

    def is_allowed(self, source: bytes) -> bool:
        """Whether this address (4 bytes, network order) is in one of the allowed networks."""
        sender = IPv4Address(source)
        return any(sender in network for network in self._allowed)

    def _judge(self, source: bytes, port: int, destination: bytes) -> Peer | DropReason:
        sender, receiver = IPv4Address(source), IPv4Address(destination)
        if not port or not _is_unicast(sender) or not _is_unicast(receiver):
            return DropReason.INVALID_GENEVE_TUNNEL
        if not self.is_allowed(source):
            return DropReason.SOURCE_NOT_ALLOWED
        return Peer(source, port, destination)


def _is_unicast(address: IPv4Address) -> bool:
    return not (address.is_multicast or address.is_unspecified or address == _BROADCAST)


_BROADCAST: Final = IPv4Address("255.255.255.255")
