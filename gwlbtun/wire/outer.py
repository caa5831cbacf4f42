"""The outer IPv4 and UDP headers of a packet that returns to the GWLB.

AWS wants the outer addresses swapped, UDP destination port 6081 and the UDP source port as it came
(ports are not swapped). Everything but the lengths is the same for all packets to one peer:

    IPv4, 20 bytes: version 4, TTL 64, DF clear, protocol UDP; the kernel fills total length,
                    identification and checksum of a raw socket's packet
    UDP, 8 bytes:   source port, 6081, length, checksum 0 (RFC 768: not computed; RFC 8926,
                    section 3.3 allows it over IPv4)
"""

from __future__ import annotations

import struct
from typing import Final

from gwlbtun.wire.geneve import UDP_PORT

OUTER_BYTES: Final = 28
_TTL: Final = 64
_UDP: Final = 17
_IPV4_AND_PORTS: Final = struct.Struct("!BBHHHBBH4s4sHH")


def build_outer(source: bytes, destination: bytes, source_port: int) -> bytes:
    """The first 24 bytes: IPv4 header and UDP ports; UDP length and checksum follow."""
    return _IPV4_AND_PORTS.pack(
        0x45, 0, 0, 0, 0, _TTL, _UDP, 0, source, destination, source_port, UDP_PORT
    )
