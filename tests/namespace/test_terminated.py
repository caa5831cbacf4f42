"""Applications on the appliance itself: what they send is locally generated, with checksums and
segments left to the device.
"""

from __future__ import annotations

import socket
import struct
from contextlib import closing
from typing import Final

import pytest

from gwlbtun.lab.namespaces import call_in_namespace
from tests.namespace.harness import DATA_PATHS, Rig, fresh_endpoint
from tests.namespace.packets import Inner, parse
from tests.vectors.geneve import COOKIE, NODE, OTHER_COOKIE, gwlb, gwlb_header
from tests.vectors.inet import (
    CLIENT_4,
    CLIENT_6,
    TCP,
    Ends,
    checksum,
    ip,
    pseudo_header,
    udp,
    udp_datagram,
)

pytestmark = pytest.mark.namespace

BOTH: Final = pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])
PATHS: Final = pytest.mark.parametrize("data_path", DATA_PATHS)
_MSS: Final = 1400
_SYN, _ACK, _PSH = 0x02, 0x10, 0x08


class Client:
    """A client in some VPC that talks to an application on the appliance, packet by packet."""

    def __init__(self, rig: Rig, ends: Ends, data_path: str) -> None:
        self._rig = rig
        self._ends = ends
        self._endpoint = fresh_endpoint()
        family = socket.AF_INET6 if ends.is_ipv6 else socket.AF_INET
        client, server = (socket.inet_ntop(family, end) for end in (ends.src, ends.dst))
        option = "-6" if ends.is_ipv6 else "-4"
        hook = rig.write_script("route", f'ip {option} route replace {client} dev "$3"')
        rig.run("ip", option, "address", "add", server, "dev", "lo", *["nodad"] * ends.is_ipv6)
        self.address = (family, (server, ends.dst_port))
        self.daemon = rig.start("--datapath", data_path, "-c", hook)
        # No network card completes an inner checksum; a veth pair would pass it on unfinished.
        rig.run("ethtool", "-K", "uplink", "tx", "off")

    def send(self, packet: bytes, cookie: int = COOKIE) -> None:
        """Send a packet in, as GWLB would."""
        self._rig.gwlb.send(gwlb(packet, cookie, self._endpoint))

    def receive(self, cookie: int = COOKIE) -> Inner:
        """The next packet; it must be inside this flow's tunnel and right in itself."""
        packet = udp(self._ends)  # any packet of this version
        outside = NODE.return_outer + gwlb_header(packet, cookie, self._endpoint)
        returned = self._rig.gwlb.returned()
        assert returned.startswith(outside)
        return parse(returned[len(outside) :])

    def segment(
        self, flags: int, seq: int, ack: int = 0, options: bytes = b"", data: bytes = b""
    ) -> bytes:
        """A packet with one TCP segment."""
        first = 5 + len(options) // 4 << 12 | flags
        zero = self._ends.ports + struct.pack("!IIHHHH", seq, ack, first, 65535, 0, 0)
        whole = zero + options + data
        check = checksum(pseudo_header(self._ends, TCP, len(whole)) + whole)
        return ip(self._ends, TCP, whole[:16] + check.to_bytes(2, "big") + whole[18:])


@PATHS
@BOTH
def test_udp_when_answered_by_the_appliance_then_the_checksum_is_complete(
    rig: Rig, ends: Ends, data_path: str
) -> None:
    """Locally generated packets leave with CHECKSUM_PARTIAL: it is completed before the outer
    headers hide it. The answer returns to the flow's node with its cookie.
    """
    client = Client(rig, ends, data_path)
    family, address = client.address

    def serve() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind(address)
        sock.settimeout(10)
        return sock

    with call_in_namespace(rig.namespaces[1], serve) as server:
        client.send(udp(ends, b"question"))
        data, peer = server.recvfrom(2048)
        assert data == b"question"
        server.sendto(b"answer" * 1000, peer)
    assert client.receive().payload == udp_datagram(ends.reverse, b"answer" * 1000)


@PATHS
@BOTH
def test_tcp_when_the_appliance_sends_much_then_each_segment_has_its_own_outer_header(
    rig: Rig, ends: Ends, data_path: str
) -> None:
    """The stack builds super-packets (GSO): they are cut before encapsulation, with right
    checksums, and a new cookie of the flow is used from the next packet on.
    """
    client = Client(rig, ends, data_path)
    family, address = client.address
    server = call_in_namespace(
        rig.namespaces[1], lambda: socket.create_server(address, family=family)
    )
    payload = bytes(range(250)) * 50  # within the initial window of ten segments
    with closing(server):
        server.settimeout(10)
        client.send(client.segment(_SYN, 1000, options=struct.pack("!BBH", 2, 4, _MSS)))
        synack = client.receive().payload
        assert synack[13] & (_SYN | _ACK) == _SYN | _ACK
        seq, ack = struct.unpack_from("!II", synack, 4)
        assert ack == 1001
        client.send(client.segment(_ACK | _PSH, 1001, seq + 1, data=b"request"), OTHER_COOKIE)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(10)
            assert connection.recv(100) == b"request"
            connection.sendall(payload)
            received: dict[int, bytes] = {}
            while sum(map(len, received.values())) < len(payload):
                tcp = client.receive(OTHER_COOKIE).payload
                at = struct.unpack_from("!I", tcp, 4)[0] - seq - 1
                received[at] = tcp[4 * (tcp[12] >> 4) :]
    assert b"".join(received[at] for at in sorted(received)) == payload
    assert max(map(len, received.values())) <= _MSS
