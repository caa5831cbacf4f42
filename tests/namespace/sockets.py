"""Both ends of the appliance as sockets: what the GWLB sends and gets, what the IP stack does."""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Final

from gwlbtun.lab.namespaces import call_in_namespace
from tests.vectors.geneve import NODE, PORT, Node
from tests.vectors.inet import UDP, Ends, checksum, pseudo_header

PATIENCE_S: Final = 10.0
_ETH_P_ALL: Final = 3
_ETH_P_IP: Final = 0x0800
_ETH_P_IPV6: Final = 0x86DD
_BUFFER_BYTES: Final = 32 << 20
_SO_RCVBUFFORCE: Final = 33


def _tap(protocol: int, kind: socket.SocketKind, device: str = "") -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    if device:
        sock.bind((device, protocol))
    sock.settimeout(PATIENCE_S)
    return sock


class Gwlb:
    """A fake GWLB: sends Geneve datagrams from any node, receives whole outer packets."""

    def __init__(self, namespace: str, device: str) -> None:
        def open_all() -> tuple[socket.socket, ...]:
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            swallow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            swallow.bind(("0.0.0.0", PORT))  # or the kernel would answer "port unreachable"
            return raw, swallow, _tap(_ETH_P_IP, socket.SOCK_DGRAM, device)

        self._raw, self.swallower, self._tap = call_in_namespace(namespace, open_all)

    def send(self, datagram: bytes, node: Node = NODE) -> None:
        """Send a UDP payload inside the outer headers of a node."""
        destination = socket.inet_ntoa(node.destination)
        self._raw.sendto(node.packet(datagram), (destination, 0))

    def receive(self, timeout_s: float = PATIENCE_S) -> bytes:
        """The next outer IPv4 packet that the appliance has sent, whole."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._tap.settimeout(max(0.001, deadline - time.monotonic()))
            packet, address = self._tap.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING:
                return packet

    def returned(self) -> bytes:
        """The next outer packet in the form of ``Return.packet``, its lengths and checksums found
        right: IPv4 header as before the kernel fills it in, UDP ports, Geneve datagram.
        """
        return without_lengths(self.receive())

    def is_silent(self) -> bool:
        """Whether nothing more has come so far."""
        try:
            self.receive(0.001)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        """Close all sockets."""
        for sock in (self._raw, self.swallower, self._tap):
            sock.close()


class Stack:
    """The appliance's IP stack as seen from packet sockets: what arrives on gwi, what leaves."""

    def __init__(self, namespace: str) -> None:
        self._tap = call_in_namespace(namespace, lambda: _tap(_ETH_P_ALL, socket.SOCK_RAW))

    def arrived(self, name: str) -> bytes:
        """The next packet that came out of an interface."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            packet, address = self._tap.recvfrom(65536)
            if address[0] == name and address[2] != socket.PACKET_OUTGOING:
                return packet
        raise TimeoutError(f"nothing came out of {name}")

    def send(self, name: str, packet: bytes) -> None:
        """Give a packet to an interface, past routing and firewall."""
        protocol = _ETH_P_IPV6 if packet[0] >> 4 == 6 else _ETH_P_IP
        self._tap.sendto(packet, (name, protocol))

    def close(self) -> None:
        """Close the socket."""
        self._tap.close()


def without_lengths(outer: bytes) -> bytes:
    """Check what the kernel has filled into an outer packet, and take it out."""
    total, ident = struct.unpack_from("!HH", outer, 2)
    udp_bytes, udp_check = struct.unpack_from("!HH", outer, 24)
    assert total == len(outer)
    assert udp_bytes == len(outer) - 20
    assert checksum(outer[:20]) == 0
    if udp_check:
        counted = pseudo_header(Ends(outer[12:16], outer[16:20]), UDP, udp_bytes)
        assert checksum(counted + outer[20:]) == 0
    del ident  # the kernel's choice
    return outer[:2] + bytes(4) + outer[6:10] + bytes(2) + outer[12:24] + outer[28:]


def read_net(namespace: str, *path: str) -> str:
    """net.<path> in a namespace."""

    def read() -> str:
        with open(os.path.join("/proc/sys/net", *path)) as file:  # noqa: PTH118, PTH123
            return file.read().strip()

    return call_in_namespace(namespace, read)
