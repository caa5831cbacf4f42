"""The two things that the GWLB wants to know of a TCP header (RFC 9293, section 3.1).

0 source port   2 destination port   4 sequence number   8 acknowledgment   13 flags
"""

from __future__ import annotations

import struct
from typing import Final

_IPV6_HEADER_BYTES: Final = 40
_NEXT_HEADER_OFFSET: Final = 6
_TCP: Final = 6
_FRAGMENT: Final = 44
_SEQUENCE_AND_FLAGS: Final = struct.Struct("!4xI5xB")
_SYN, _RST, _ACK = 0x02, 0x04, 0x10


def opening_sequence(packet: bytes) -> int | None:
    """The sequence number of a SYN that asks for a connection, None for any other packet."""
    sequence, flags = _sequence_and_flags(packet)
    return sequence if flags & (_SYN | _ACK) == _SYN else None


def is_reset(packet: bytes) -> bool:
    """Whether the packet ends a connection at once."""
    return bool(_sequence_and_flags(packet)[1] & _RST)


def _sequence_and_flags(packet: bytes) -> tuple[int, int]:
    """Of a TCP packet that parse_inner accepted; zeros when the header is cut off."""
    start = _tcp_offset(packet)
    if len(packet) < start + _SEQUENCE_AND_FLAGS.size:
        return 0, 0
    sequence, flags = _SEQUENCE_AND_FLAGS.unpack_from(packet, start)
    return sequence, flags


def _tcp_offset(packet: bytes) -> int:
    if packet[0] >> 4 == 4:
        return 4 * (packet[0] & 0xF)
    offset, header = _IPV6_HEADER_BYTES, packet[_NEXT_HEADER_OFFSET]
    while header != _TCP and offset + 2 <= len(packet):
        header, length_units = packet[offset], (0 if header == _FRAGMENT else packet[offset + 1])
        offset += 8 + 8 * length_units
    return offset
