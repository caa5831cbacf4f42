"""Kinds of traffic, as packet templates for generator and collector; mirrors packets.h.

Flow n has the cookie n, the inner source 10.77.<n / 65536>.1 and the source port n % 65536. Plain
forwarding sends the same inner packets without a tunnel.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from bench.topology import APPLIANCE_ADDRESS, APPLIANCE_MAC, GWLB_ADDRESS, GWLB_MAC
from gwlbtun.wire.gwlb import AWS
from gwlbtun.wire.outer import build_outer

ENDPOINT_ID: Final = 0x0123456789ABCDEF
ALL_FLOWS: Final = 128 * 65536
"""More than any flow table holds: each packet is a new flow."""
_GWLB_PORT: Final = 60000
_INNER_SOURCE: Final = bytes((10, 77, 0, 1))
_INNER_DESTINATION: Final = bytes((10, 77, 200, 1))
_INNER_PORT: Final = 4433
_TUNNEL_BYTES: Final = 68
_LOAD: Final = struct.Struct("=II82s40s4x")
"""struct load: flows, is_tunnel, outer, inner up to its flow."""
_IPV4: Final = struct.Struct("!BBHHHBBH4s4s")
_UDP: Final = struct.Struct("!HHHH")


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of traffic; ``packet_bytes`` is the inner packet, ``flows`` how many take turns."""

    packet_bytes: int
    flows: int
    is_tunnel: bool = True

    @property
    def is_all_new(self) -> bool:
        """Whether no packet belongs to a flow that is still known."""
        return self.flows == ALL_FLOWS

    def template(self, *, is_return: bool) -> bytes:
        """The struct load of packets as they are sent, or as they must return."""
        ends = [socket.inet_aton(a) for a in (GWLB_ADDRESS, APPLIANCE_ADDRESS)]
        macs = [GWLB_MAC, APPLIANCE_MAC]
        if is_return:
            ends.reverse()
            macs.reverse()
        eth = macs[1] + macs[0] + b"\x08\x00"
        outer = eth + self._tunnel(*ends) if self.is_tunnel else eth
        return _LOAD.pack(self.flows, self.is_tunnel, outer, self._inner())

    def frame(self) -> bytes:
        """A frame of the right length; the generator fills in the headers."""
        return bytes(14 + _TUNNEL_BYTES * self.is_tunnel + self.packet_bytes)

    def _tunnel(self, source: bytes, destination: bytes) -> bytes:
        total = _TUNNEL_BYTES + self.packet_bytes
        head = build_outer(source, destination, _GWLB_PORT)
        ip = with_checksum(head[:2] + total.to_bytes(2, "big") + head[4:20])
        udp = head[20:] + (total - 20).to_bytes(2, "big") + b"\0\0"
        return ip + udp + AWS.build_header(ENDPOINT_ID, 0, is_ipv6=False)

    def _inner(self) -> bytes:
        addresses = (_INNER_SOURCE, _INNER_DESTINATION)
        ip = _IPV4.pack(0x45, 0, self.packet_bytes, 0, 0, 64, socket.IPPROTO_UDP, 0, *addresses)
        return with_checksum(ip) + _UDP.pack(0, _INNER_PORT, self.packet_bytes - 20, 0)


def with_checksum(header: bytes) -> bytes:
    """An IPv4 header without options, with its checksum (RFC 791) filled in."""
    total: int = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + (~total & 0xFFFF).to_bytes(2, "big") + header[12:]
