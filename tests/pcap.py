"""Reads the UDP payloads of a capture file: pcap of microseconds, Ethernet, IPv4.

draft-ietf-opsawg-pcap; IEEE 802.1Q and 802.1ad tags are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MAGIC: Final = 0xA1B2C3D4
_VLAN_TAGS: Final = (b"\x81\x00", b"\x88\xa8")


@dataclass(frozen=True, slots=True)
class Captured:
    """One UDP datagram: outer addresses, ports, payload as far as it was captured."""

    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    payload: bytes


def read_datagrams(path: Path) -> Iterator[Captured]:
    """Yield the UDP datagrams of a capture, in its order; other frames are an error."""
    for frame in _read_frames(path.read_bytes()):
        ethertype = 12
        while frame[ethertype : ethertype + 2] in _VLAN_TAGS:
            ethertype += 4
        packet = frame[ethertype + 2 :]
        if frame[ethertype : ethertype + 2] != b"\x08\x00" or packet[9] != 17:
            raise ValueError(f"{path.name}: a frame is not UDP over IPv4")
        udp = packet[4 * (packet[0] & 0xF) : int.from_bytes(packet[2:4], "big")]
        src_port, dst_port, length = struct.unpack_from("!HHH", udp)
        yield Captured(packet[12:16], packet[16:20], src_port, dst_port, udp[8:length])


def _read_frames(file: bytes) -> Iterator[bytes]:
    order = "<" if int.from_bytes(file[:4], "little") == _MAGIC else ">"
    magic, link_type = struct.unpack_from(f"{order}I16xI", file)
    if magic != _MAGIC or link_type != 1:
        raise ValueError("not a pcap file of microseconds and Ethernet")
    offset = 24
    while offset < len(file):
        (captured,) = struct.unpack_from(f"{order}I", file, offset + 8)
        yield file[offset + 16 : offset + 16 + captured]
        offset += 16 + captured
