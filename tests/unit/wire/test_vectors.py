"""The vectors themselves: named once, sourced, with right checksums, and complete."""

from __future__ import annotations

import pytest

from gwlbtun.reasons import DropReason
from tests.vectors import DECAP_VECTORS, SCENARIOS, Leave
from tests.vectors.decap_inner import INNER_PACKETS
from tests.vectors.geneve import NODE, gwlb
from tests.vectors.inet import CLIENT_4, CLIENT_6, Ends, checksum, pseudo_header, tcp

OF_PEERS = {DropReason.SOURCE_NOT_ALLOWED, DropReason.INVALID_GENEVE_TUNNEL}
OF_INPUT_AND_OUTPUT = {
    DropReason.DATAGRAM_TRUNCATED,
    DropReason.ENDPOINT_LIMIT,
    DropReason.ENDPOINT_OPENING,
    DropReason.ENDPOINT_FAILED,
    DropReason.TUN_WRITE_FAILED,
    DropReason.OUTER_OVERSIZE,
    DropReason.SEND_FAILED,
    DropReason.SOURCE_INSIDE_TUNNEL,
}


def test_vectors_when_listed_have_a_name_of_their_own_and_a_source() -> None:
    """Packets come from one place of named, readable, sourced vectors."""
    for group in (DECAP_VECTORS, SCENARIOS):
        assert len({one.name for one in group}) == len(group)
        assert all(one.source for one in group)


def test_vectors_when_taken_together_provoke_every_reason() -> None:
    """Every drop reason has a test; those of peers and of the operating system are elsewhere."""
    verdicts = [vector.verdict for vector in DECAP_VECTORS]
    steps = [step for scenario in SCENARIOS for step in scenario.steps if isinstance(step, Leave)]
    reasons = {
        one for one in [*verdicts, *(s.verdict for s in steps)] if isinstance(one, DropReason)
    }
    assert reasons == set(DropReason) - OF_PEERS - OF_INPUT_AND_OUTPUT


@pytest.mark.parametrize(
    "packet", [pytest.param(packet, id=name) for name, _, packet in INNER_PACKETS]
)
def test_inner_packet_when_built_has_right_checksums(packet: bytes) -> None:
    """RFC 1071: a right checksum makes the sum over everything zero."""
    if packet[0] >> 4 == 4:
        header_bytes = 4 * (packet[0] & 0xF)
        assert checksum(packet[:header_bytes]) == 0
        ends, protocol = Ends(packet[12:16], packet[16:20]), packet[9]
        upper = packet[header_bytes : int.from_bytes(packet[2:4], "big")]
        is_part = bool(packet[6] & 0x3F or packet[7])
    else:
        ends, protocol = Ends(packet[8:24], packet[24:40]), packet[6]
        upper = packet[40 : 40 + int.from_bytes(packet[4:6], "big")]
        is_part = False
    counted = b"" if protocol == 1 else pseudo_header(ends, protocol, len(upper))
    is_summed = protocol == (58 if ends.is_ipv6 else 1) or protocol in (6, 17)
    if is_summed and not is_part and len(upper) >= 8:
        assert checksum(counted + upper) == 0


@pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])
def test_outer_packet_when_built_is_like_those_of_the_captures(ends: Ends) -> None:
    """AWS: TOS 0, TTL 255, id 0, DF clear, a valid non-zero UDP checksum, 68 bytes around."""
    inner = tcp(ends, b"hello")
    packet = NODE.packet(gwlb(inner))
    assert packet[:10] == b"\x45\0" + (68 + len(inner)).to_bytes(2, "big") + b"\0\0\0\0\xff\x11"
    assert packet[12:24] == NODE.source + NODE.destination + b"\xea\x60\x17\xc1"
    assert packet[28:] == gwlb(inner)
    assert checksum(packet[:20]) == 0
    outer = Ends(NODE.source, NODE.destination)
    assert packet[26:28] != b"\0\0"
    assert checksum(pseudo_header(outer, 17, len(packet) - 20) + packet[20:]) == 0
