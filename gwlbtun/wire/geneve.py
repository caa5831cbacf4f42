"""The Geneve header: RFC 8926, section 3.4.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |Ver|  Opt Len  |O|C|    Rsvd.  |          Protocol Type        |
    |        Virtual Network Identifier (VNI)       |    Reserved   |
    |          Option Class         |     Type      |R|R|R| Length  |
    |                      Variable Option Data                     |

Opt Len and Length count 4-byte words; Length leaves out the option's own 4-byte header. The
highest bit of Type says that whoever does not know the option must drop the packet.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gwlbtun.errors import MalformedPacket
from gwlbtun.reasons import DropReason

UDP_PORT: Final = 6081
ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_IPV6: Final = 0x86DD
BASE_BYTES: Final = 8
MAX_OPTION_BYTES: Final = 252
"""63 words: all that the 6-bit Opt Len can say."""

_BASE: Final = struct.Struct("!BBHI")
_OPTION: Final = struct.Struct("!HBB")
_FLAG_OAM: Final = 0x80
_FLAG_CRITICAL: Final = 0x40
_TYPE_CRITICAL: Final = 0x80


@dataclass(frozen=True, slots=True)
class GeneveOption:
    """One TLV. ``data`` is a whole number of 4-byte words, at most 124 bytes."""

    opt_class: int
    type: int
    data: bytes

    @property
    def is_critical(self) -> bool:
        """Whether a tunnel end that does not know the option has to drop the packet."""
        return bool(self.type & _TYPE_CRITICAL)


@dataclass(frozen=True, slots=True)
class GeneveHeader:
    """A parsed header; ``length_bytes`` is where the inner packet starts."""

    is_oam: bool
    is_critical: bool
    protocol: int
    vni: int
    options: tuple[GeneveOption, ...]
    length_bytes: int


def parse_geneve(datagram: bytes | memoryview) -> GeneveHeader:
    """Read the header at the start of a UDP payload.

    Raises MalformedPacket with GENEVE_TRUNCATED, GENEVE_VERSION or GENEVE_OPTION_MALFORMED.
    """
    if len(datagram) < BASE_BYTES:
        raise MalformedPacket(DropReason.GENEVE_TRUNCATED)
    first, flags, protocol, vni_reserved = _BASE.unpack_from(datagram)
    if first >> 6:
        raise MalformedPacket(DropReason.GENEVE_VERSION)
    length_bytes = BASE_BYTES + 4 * (first & 0x3F)
    if len(datagram) < length_bytes:
        raise MalformedPacket(DropReason.GENEVE_TRUNCATED)
    return GeneveHeader(
        is_oam=bool(flags & _FLAG_OAM),
        is_critical=bool(flags & _FLAG_CRITICAL),
        protocol=protocol,
        vni=vni_reserved >> 8,
        options=tuple(_walk_options(bytes(datagram[BASE_BYTES:length_bytes]))),
        length_bytes=length_bytes,
    )


def _walk_options(area: bytes) -> Iterable[GeneveOption]:
    """Yield the options of an area whose length is a multiple of 4, never reading past it."""
    offset = 0
    while offset < len(area):
        opt_class, type_, length_words = _OPTION.unpack_from(area, offset)
        start = offset + _OPTION.size
        offset = start + 4 * (length_words & 0x1F)
        if offset > len(area):
            raise MalformedPacket(DropReason.GENEVE_OPTION_MALFORMED)
        yield GeneveOption(opt_class, type_, area[start:offset])


def build_base(is_ipv6: bool, option_bytes: int) -> bytes:
    """The first 8 bytes of a plain header: VNI 0, no flags, that many bytes of options behind."""
    return _BASE.pack(option_bytes // 4, 0, ETHERTYPE_IPV6 if is_ipv6 else ETHERTYPE_IPV4, 0)


def build_geneve(
    protocol: int,
    options: Iterable[GeneveOption],
    *,
    vni: int = 0,
    is_oam: bool = False,
    is_critical: bool = False,
) -> bytes:
    """The header bytes. Raises ValueError when the options do not fit the format."""
    area = b"".join(_build_option(option) for option in options)
    if len(area) > MAX_OPTION_BYTES:
        message = f"{len(area)} option bytes, Geneve allows {MAX_OPTION_BYTES}"
        raise ValueError(message)
    flags = is_oam * _FLAG_OAM | is_critical * _FLAG_CRITICAL
    return _BASE.pack(len(area) // 4, flags, protocol, vni << 8) + area


def _build_option(option: GeneveOption) -> bytes:
    words, rest = divmod(len(option.data), 4)
    if rest or words > 0x1F:
        message = f"option data of {len(option.data)} bytes is no whole number of at most 31 words"
        raise ValueError(message)
    return _OPTION.pack(option.opt_class, option.type, words) + option.data
