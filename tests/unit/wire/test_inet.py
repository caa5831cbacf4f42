from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwlbtun.errors import MalformedPacket
from gwlbtun.reasons import DropReason
from gwlbtun.wire.inet import InnerFlow, Table, parse_inner, reverse_key
from tests.vectors.decap_inner import BAD_INNER_PACKETS, INNER_PACKETS
from tests.vectors.icmp import ERROR_KINDS, echo, echo_reply, icmp_error, unreadable_error
from tests.vectors.inet import (
    CLIENT_4,
    CLIENT_6,
    DESTINATION,
    FRAGMENT,
    PADN,
    RECORD_ROUTE,
    ROUTER_4,
    ROUTER_6,
    Ends,
    esp,
    fragment_body,
    fragments,
    gre,
    ip,
    sctp,
    tcp,
    tcp_segment,
    udp,
    udp_datagram,
)

each_version = pytest.mark.parametrize("ends", [CLIENT_4, CLIENT_6], ids=["ipv4", "ipv6"])
each_packet = pytest.mark.parametrize(
    "packet", [pytest.param(packet, id=name) for name, _, packet in INNER_PACKETS]
)


def addresses(ends: Ends) -> bytes:
    return ends.src + ends.dst


def router_of(ends: Ends) -> bytes:
    return ROUTER_6 if ends.is_ipv6 else ROUTER_4


@each_version
def test_tcp_and_udp_when_parsed_have_addresses_and_ports(ends: Ends) -> None:
    """RFC 9293, RFC 768: ports are the first four bytes, after options and extensions."""
    key = addresses(ends) + ends.ports
    for table, packet in ((Table.TCP, tcp(ends, b"x")), (Table.UDP, udp(ends, b"x"))):
        assert parse_inner(packet) == InnerFlow(ends.is_ipv6, table, key)
        assert parse_inner(memoryview(packet)) == parse_inner(packet)
    long = ip(
        ends,
        6,
        tcp_segment(ends),
        options=RECORD_ROUTE,
        extensions=[(DESTINATION, PADN)] * 31,
    )
    assert parse_inner(long) == InnerFlow(ends.is_ipv6, Table.TCP, key)


@each_version
def test_protocol_without_known_ports_when_parsed_has_addresses_and_protocol(ends: Ends) -> None:
    """AWS: ESP, GRE, SCTP and others are flows of addresses and protocol."""
    for protocol, packet in ((50, esp(ends)), (47, gre(ends)), (132, sctp(ends))):
        key = addresses(ends) + b"\0\0" + bytes((protocol,))
        assert parse_inner(packet) == InnerFlow(ends.is_ipv6, Table.OTHER, key)
        assert parse_inner(packet).reverse == addresses(ends.reverse) + b"\0\0" + bytes((protocol,))


@each_version
def test_echo_when_parsed_has_its_identifier(ends: Ends) -> None:
    """RFC 792, RFC 4443: request and reply of one ping share the identifier."""
    protocol = b"\x3a" if ends.is_ipv6 else b"\x01"
    request, reply = parse_inner(echo(ends, 0xABCD)), parse_inner(echo_reply(ends.reverse, 0xABCD))
    assert request == InnerFlow(ends.is_ipv6, Table.OTHER, addresses(ends) + b"\xab\xcd" + protocol)
    assert (request.reverse, reply.reverse) == (reply.key, request.key)


@pytest.mark.parametrize("type_", range(256))
@each_version
def test_icmp_message_when_of_any_type_is_query_error_or_neither(ends: Ends, type_: int) -> None:
    """RFC 792 and RFC 4443, with the types IANA lists: queries have an identifier, errors a
    quote, everything else belongs to its addresses.
    """
    protocol = 58 if ends.is_ipv6 else 1
    about = tcp(ends.reverse)
    message = ip(ends, protocol, bytes((type_, 0, 0, 0, 0x12, 0x34, 0, 0)) + about)
    errors = {1, 2, 3, 4} if ends.is_ipv6 else {3, 4, 5, 11, 12}
    queries = {128, 129} if ends.is_ipv6 else {0, 8, 13, 14, 15, 16, 17, 18}
    flow = parse_inner(message)
    if type_ in errors:
        assert flow.quote == parse_inner(about)
    else:
        identifier = b"\x12\x34" if type_ in queries else b"\0\0"
        key = addresses(ends) + identifier + bytes((protocol,))
        assert flow == InnerFlow(ends.is_ipv6, Table.OTHER, key)


@pytest.mark.parametrize(("ends", "kind"), ERROR_KINDS, ids=str)
def test_error_when_of_any_kind_has_the_flow_it_quotes(ends: Ends, kind: str) -> None:
    """RFC 792, RFC 4443: the quote begins with the packet's IP header."""
    about = tcp(ends, b"lost")
    flow = parse_inner(icmp_error(about, kind))
    kinds = bytes((58 if ends.is_ipv6 else 1, Table.TCP))
    quote = InnerFlow(ends.is_ipv6, Table.TCP, addresses(ends) + ends.ports)
    key = router_of(ends) + ends.src + kinds + quote.key
    assert flow == InnerFlow(ends.is_ipv6, Table.OTHER, key, quote=quote)
    assert flow.reverse == b""


@each_version
def test_error_about_fragments_when_parsed_has_what_they_have(ends: Ends) -> None:
    """RFC 791, RFC 8200: a quoted later fragment has its fragment key only."""
    first, later = fragments(udp(ends, bytes(2000)), 1480, ident=0x0102)
    ident = b"\0\0\1\2" if ends.is_ipv6 else b"\1\2\x11"
    fragment = addresses(ends) + ident
    protocol = bytes((58 if ends.is_ipv6 else 1,))
    ported = InnerFlow(ends.is_ipv6, Table.UDP, addresses(ends) + ends.ports, fragment)
    assert parse_inner(first) == ported
    assert parse_inner(icmp_error(first)).quote == ported
    portless = InnerFlow(ends.is_ipv6, Table.UDP, b"", fragment)
    assert parse_inner(later) == portless
    assert parse_inner(later).reverse == b""
    error = parse_inner(icmp_error(later))
    assert error.quote == portless
    assert error.key == router_of(ends) + ends.src + protocol + b"\3" + fragment


@each_version
def test_error_when_its_quote_is_unreadable_has_addresses_and_protocol(ends: Ends) -> None:
    """An error without a readable quote is known by its addresses."""
    protocol = bytes((58 if ends.is_ipv6 else 1,))
    other = CLIENT_4 if ends.is_ipv6 else CLIENT_6
    quoting_other = ip(ends, protocol[0], bytes((3, 0)) + bytes(6) + tcp(other))
    for packet in (unreadable_error(ends), quoting_other):
        key = addresses(ends) + b"\0\0" + protocol
        assert parse_inner(packet) == InnerFlow(ends.is_ipv6, Table.OTHER, key)


@each_version
def test_error_about_an_error_when_parsed_does_not_look_deeper(ends: Ends) -> None:
    """RFC 1122, 3.2.2: no error answers an error; a forged one ends the walk."""
    flow = parse_inner(icmp_error(icmp_error(tcp(ends))))
    assert flow.quote is not None
    assert flow.quote.quote is None


def test_atomic_fragment_when_parsed_is_a_whole_packet() -> None:
    """RFC 6946: a fragment header with offset 0 and no more to come."""
    atomic = (FRAGMENT, fragment_body(0, 9, is_more=False))
    flow = parse_inner(ip(CLIENT_6, 6, tcp_segment(CLIENT_6), extensions=[atomic]))
    assert flow == parse_inner(tcp(CLIENT_6))


def test_reserved_bits_of_a_fragment_header_when_set_mean_nothing() -> None:
    """RFC 8200, 4.5: two reserved bits lie between offset and M."""
    reserved = (FRAGMENT, b"\x00\x06" + bytes(4))
    flow = parse_inner(ip(CLIENT_6, 6, tcp_segment(CLIENT_6), extensions=[reserved]))
    assert flow == parse_inner(tcp(CLIENT_6))


@pytest.mark.parametrize("offset_bytes", [8, 1480, 65528])
@each_version
def test_later_fragment_when_at_any_offset_has_no_ports(ends: Ends, offset_bytes: int) -> None:
    """RFC 791, RFC 8200: payload is never read as ports, be it one byte or the last of 64 KiB."""
    body = fragment_body(offset_bytes, 0x1234, is_more=False)
    packet = ip(ends, 17, b"\xff", fragment=offset_bytes // 8, extensions=[(FRAGMENT, body)])
    flow = parse_inner(packet)
    ident = b"\0\0\x12\x34" if ends.is_ipv6 else b"\x12\x34\x11"
    assert (flow.key, flow.fragment) == (b"", addresses(ends) + ident)


@pytest.mark.parametrize(
    ("reason", "packet"),
    [pytest.param(reason, packet, id=name) for reason, name, _, packet in BAD_INNER_PACKETS],
)
def test_packet_when_malformed_is_refused_for_it(reason: DropReason, packet: bytes) -> None:
    """RFC 791, RFC 8200: each vector names the rule it breaks."""
    with pytest.raises(MalformedPacket) as malformed:
        parse_inner(packet)
    assert malformed.value.reason is reason


@pytest.mark.parametrize("version", [0, 1, 2, 3, 5, *range(7, 16)])
def test_packet_when_of_another_version_is_refused(version: int) -> None:
    """RFC 791, RFC 8200: the version is the first half byte."""
    with pytest.raises(MalformedPacket) as malformed:
        parse_inner(bytes((version << 4 | 5,)) + bytes(59))
    assert malformed.value.reason is DropReason.INNER_VERSION


@each_packet
def test_packet_when_cut_at_any_byte_is_refused(packet: bytes) -> None:
    """RFC 791, RFC 8200: a packet is as long as it says."""
    length = int.from_bytes(packet[2:4], "big") if packet[0] >> 4 == 4 else 0
    length = length or 40 + int.from_bytes(packet[4:6], "big")
    for end in [*range(0, length, 1 if length < 400 else 97), length - 1]:
        with pytest.raises(MalformedPacket) as malformed:
            parse_inner(packet[:end])
        assert malformed.value.reason is DropReason.INNER_TRUNCATED


@each_packet
def test_quote_when_cut_at_any_byte_is_the_whole_packets_flow_or_refused(packet: bytes) -> None:
    """RFC 792: quotes are cut off; what can still be read is the same flow."""
    whole = parse_inner(packet, is_quoted=True)
    for end in range(min(len(packet), 400)):
        with contextlib.suppress(MalformedPacket):
            assert parse_inner(packet[:end], is_quoted=True) == whole


@each_packet
def test_reverse_key_when_reversed_again_is_the_key(packet: bytes) -> None:
    """The two directions of a flow have mirrored keys."""
    flow = parse_inner(packet)
    if flow.reverse:
        assert reverse_key(flow.table, flow.reverse) == flow.key
    else:
        assert flow.quote is not None or not flow.key


@each_version
def test_reverse_key_when_the_answer_comes_is_its_key(ends: Ends) -> None:
    """AWS: look up the exact direction first, then the reverse."""
    for build in (tcp, udp, esp, gre, sctp):
        assert parse_inner(build(ends)).reverse == parse_inner(build(ends.reverse)).key


@given(packet=st.binary(max_size=200), version=st.sampled_from([4, 6]), is_quoted=st.booleans())
@settings(deadline=None, max_examples=500)
def test_parse_when_given_arbitrary_bytes_raises_nothing_else(
    packet: bytes, version: int, is_quoted: bool
) -> None:
    """A malformed packet is ordinary input."""
    for candidate in (packet, bytes((version << 4 | 5,)) + packet):
        with contextlib.suppress(MalformedPacket):
            parse_inner(candidate, is_quoted=is_quoted)


@given(
    packet=st.sampled_from([packet for _, _, packet in INNER_PACKETS]),
    places=st.lists(st.tuples(st.integers(0, 119), st.integers(0, 255)), max_size=4),
    garbage=st.binary(max_size=20),
)
@settings(deadline=None, max_examples=500)
def test_parse_when_given_a_mutated_packet_says_the_same_whatever_follows(
    packet: bytes, places: list[tuple[int, int]], garbage: bytes
) -> None:
    """A malformed packet is ordinary input; bytes behind a whole packet are not read."""
    mutated = bytearray(packet)
    for place, value in places:
        mutated[place % len(mutated)] = value
    with contextlib.suppress(MalformedPacket):
        assert parse_inner(bytes(mutated) + garbage) == parse_inner(bytes(mutated))


@given(
    src=st.binary(min_size=4, max_size=4),
    dst=st.binary(min_size=4, max_size=4),
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    data=st.binary(max_size=64),
    is_ipv6=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_built_packet_when_parsed_gives_the_ends_it_was_built_of(
    src: bytes, dst: bytes, ports: tuple[int, int], data: bytes, is_ipv6: bool
) -> None:
    """RFC 791, RFC 8200, RFC 768: building and parsing agree on every field of the key."""
    ends = Ends(4 * src, 4 * dst, *ports) if is_ipv6 else Ends(src, dst, *ports)
    flow = parse_inner(ip(ends, 17, udp_datagram(ends, data)))
    assert flow == InnerFlow(is_ipv6, Table.UDP, addresses(ends) + ends.ports)
