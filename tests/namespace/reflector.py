"""An appliance that returns every packet, wrong in the way that the packet's last word asks for.
Run as a script inside the appliance's namespace.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from gwlbtun.wire.outer import build_outer

_IP_PKTINFO: Final = 8
_PKTINFO: Final = struct.Struct("=I4s4s")
_ENDPOINT_OPTION: Final = slice(8, 20)


def _spoil(datagram: bytes, way: bytes) -> bytes:
    """The datagram with one of AWS's rules broken."""
    if way == b"cookie":
        return datagram[:36] + bytes([datagram[36] ^ 1]) + datagram[37:]
    if way == b"endpoint":  # three option words fewer
        return bytes([datagram[0] - 3]) + datagram[1:8] + datagram[_ENDPOINT_OPTION.stop :]
    if way == b"other-endpoint":
        return datagram[:12] + bytes(8) + datagram[20:]
    if way == b"vni":
        return datagram[:4] + b"\0\0\1" + datagram[7:]
    if way == b"flow":  # the inner UDP source port
        return datagram[:60] + b"\0\1" + datagram[62:]
    return datagram


def main() -> None:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    receiver.bind(("0.0.0.0", 6081))
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    while True:
        datagram, control, _, (address, port) = receiver.recvmsg(9216, 64)
        local = _PKTINFO.unpack_from(control[0][2])[2]
        way = datagram.rpartition(b" ")[2]
        payload = _spoil(datagram, way)
        outer = bytearray(build_outer(local, socket.inet_aton(address), port))
        if way == b"ports":  # swapped, as an ordinary socket's answer would have them
            outer[20:24] = outer[22:24] + outer[20:22]
        if way == b"addresses":
            outer[12:16] = socket.inet_aton("192.0.2.1")
        packet = bytes(outer) + struct.pack("!HH", 8 + len(payload), 0) + payload
        sender.sendto(packet, (address, 0))


if __name__ == "__main__":
    main()
