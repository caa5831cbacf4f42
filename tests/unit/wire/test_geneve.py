from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwlbtun.errors import MalformedPacket
from gwlbtun.reasons import DropReason
from gwlbtun.wire.geneve import (
    MAX_OPTION_BYTES,
    GeneveHeader,
    GeneveOption,
    build_geneve,
    parse_geneve,
)
from tests.vectors import DECAP_VECTORS, Vector
from tests.vectors.geneve import ENDPOINT, geneve, gwlb, gwlb_options, option
from tests.vectors.inet import CLIENT_4, CLIENT_6, tcp

ACCEPTED = [vector for vector in DECAP_VECTORS if vector.inner]
LARGEST = geneve(option(1, 2, b"d" * 124) + option(3, 4, b"e" * 120), b"inner", words=63)

options = st.builds(
    GeneveOption,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFF),
    st.integers(0, 31).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)),
)


def test_header_when_it_is_of_aws_is_read_whole() -> None:
    """AWS: version 0, VNI 0, O and C clear, three options of class 0x0108, 40 bytes."""
    assert parse_geneve(gwlb(tcp(CLIENT_6), cookie=0xC0FFEE01)) == GeneveHeader(
        is_oam=False,
        is_critical=False,
        protocol=0x86DD,
        vni=0,
        options=(
            GeneveOption(0x0108, 1, ENDPOINT.to_bytes(8, "big")),
            GeneveOption(0x0108, 2, bytes(8)),
            GeneveOption(0x0108, 3, b"\xc0\xff\xee\x01"),
        ),
        length_bytes=40,
    )


@pytest.mark.parametrize(
    ("flags", "is_oam", "is_critical"),
    [(0x00, False, False), (0x80, True, False), (0x40, False, True), (0xFF, True, True)],
    ids=["none", "o", "c", "all-and-reserved"],
)
def test_flags_when_set_are_read_one_by_one(flags: int, is_oam: bool, is_critical: bool) -> None:
    """RFC 8926, 3.4: O and C are the two highest bits; the others are ignored."""
    header = parse_geneve(geneve(b"", b"", flags=flags))
    assert (header.is_oam, header.is_critical) == (is_oam, is_critical)
    assert (header.options, header.length_bytes) == ((), 8)


def test_vni_when_set_is_read_without_the_reserved_byte() -> None:
    """RFC 8926, 3.4: 24 bits of VNI, 8 reserved bits."""
    assert parse_geneve(geneve(b"", b"", vni_reserved=0xABCDEF99)).vni == 0xABCDEF


@pytest.mark.parametrize("version", [1, 2, 3])
def test_version_when_not_0_is_refused(version: int) -> None:
    """RFC 8926, 3.4: packets of an unknown version are dropped, whatever follows."""
    with pytest.raises(MalformedPacket) as malformed:
        parse_geneve(geneve(b"", b"", version=version, words=63))
    assert malformed.value.reason is DropReason.GENEVE_VERSION


@pytest.mark.parametrize("datagram", [gwlb(tcp(CLIENT_4)), LARGEST], ids=["aws", "largest"])
def test_header_when_cut_at_any_byte_is_refused(datagram: bytes) -> None:
    """RFC 8926, 3.4: Opt Len says where the header ends."""
    for length in range(8 + 4 * (datagram[0] & 0x3F)):
        with pytest.raises(MalformedPacket) as malformed:
            parse_geneve(datagram[:length])
        assert malformed.value.reason is DropReason.GENEVE_TRUNCATED
    assert parse_geneve(datagram).length_bytes == 8 + 4 * (datagram[0] & 0x3F)


def test_header_when_it_is_the_largest_is_read_whole() -> None:
    """RFC 8926, 3.4: 63 words of options, 31 words of data in one."""
    header = parse_geneve(memoryview(LARGEST))
    assert header.length_bytes == 260
    assert header.options == (GeneveOption(1, 2, b"d" * 124), GeneveOption(3, 4, b"e" * 120))


def test_option_when_its_reserved_bits_are_set_has_its_own_length() -> None:
    """RFC 8926, 3.5: the length is the 5 lowest bits of its byte."""
    header = parse_geneve(geneve(option(9, 8, b"data", words=0xE1), b""))
    assert header.options == (GeneveOption(9, 8, b"data"),)


def test_options_when_empty_are_read_each() -> None:
    """RFC 8926, 3.5: an option without data is 4 bytes long, so a walk always ends."""
    header = parse_geneve(geneve(option(0, 0) * 63, b""))
    assert header.options == (GeneveOption(0, 0, b""),) * 63


@pytest.mark.parametrize("words", range(1, 32))
def test_option_when_it_reaches_past_the_area_is_refused(words: int) -> None:
    """RFC 8926, 3.5: the inner packet's bytes are no option data."""
    with pytest.raises(MalformedPacket) as malformed:
        parse_geneve(geneve(b"".join(gwlb_options()) + option(7, 7, words=words), bytes(500)))
    assert malformed.value.reason is DropReason.GENEVE_OPTION_MALFORMED
    assert str(malformed.value) == "geneve_option_malformed"


@pytest.mark.parametrize(("type_", "is_critical"), [(0x7F, False), (0x80, True), (0xFF, True)])
def test_option_type_when_its_highest_bit_is_set_is_critical(type_: int, is_critical: bool) -> None:
    """RFC 8926, 3.5: whoever does not know a critical option drops the packet."""
    assert GeneveOption(1, type_, b"").is_critical is is_critical


@pytest.mark.parametrize(
    "data", [b"abc", b"abcde", bytes(125), bytes(128)], ids=["3", "5", "125", "128"]
)
def test_build_when_an_option_is_no_number_of_words_raises(data: bytes) -> None:
    """RFC 8926, 3.5: whole words, at most 31."""
    with pytest.raises(ValueError, match=f"option data of {len(data)} bytes"):
        build_geneve(0x0800, [GeneveOption(1, 1, data)])


def test_build_when_the_options_are_more_than_252_bytes_raises() -> None:
    """RFC 8926, 3.4: Opt Len has 6 bits."""
    full = [GeneveOption(1, 1, bytes(120)), GeneveOption(1, 1, bytes(124))]
    assert len(build_geneve(0x0800, full)) == 8 + MAX_OPTION_BYTES
    with pytest.raises(ValueError, match="256 option bytes, Geneve allows 252"):
        build_geneve(0x0800, [*full, GeneveOption(1, 1, b"")])


def test_build_when_everything_is_set_gives_these_bytes() -> None:
    """RFC 8926, 3.4: the whole header, byte by byte."""
    header = build_geneve(
        0x86DD,
        [GeneveOption(0x0108, 0x83, b"\1\2\3\4")],
        vni=0xABCDEF,
        is_oam=True,
        is_critical=True,
    )
    assert header == bytes.fromhex("02c086dd abcdef00 01088301 01020304")


@given(
    chosen=st.lists(options, max_size=2),
    vni=st.integers(0, 2**24 - 1),
    protocol=st.integers(0, 0xFFFF),
    is_oam=st.booleans(),
    is_critical=st.booleans(),
    inner=st.binary(max_size=20),
)
@settings(deadline=None, max_examples=300)
def test_build_when_parsed_again_gives_the_same_values(
    chosen: list[GeneveOption],
    vni: int,
    protocol: int,
    is_oam: bool,
    is_critical: bool,
    inner: bytes,
) -> None:
    """RFC 8926, 3.4: building and parsing are each other's inverse."""
    chosen = chosen[:1] if sum(4 + len(one.data) for one in chosen) > MAX_OPTION_BYTES else chosen
    built = build_geneve(protocol, chosen, vni=vni, is_oam=is_oam, is_critical=is_critical)
    expected = GeneveHeader(is_oam, is_critical, protocol, vni, tuple(chosen), len(built))
    assert parse_geneve(built + inner) == expected


@given(datagram=st.binary(max_size=300))
@settings(deadline=None, max_examples=500)
def test_parse_when_given_arbitrary_bytes_raises_nothing_else(datagram: bytes) -> None:
    """A malformed packet is ordinary input."""
    with contextlib.suppress(MalformedPacket):
        parse_geneve(datagram)


@given(
    vector=st.sampled_from(ACCEPTED),
    places=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 255)), max_size=4),
)
@settings(deadline=None, max_examples=300)
def test_parse_when_given_a_mutated_header_raises_nothing_else(
    vector: Vector, places: list[tuple[int, int]]
) -> None:
    """A malformed packet is ordinary input; what parses covers its header exactly."""
    datagram = bytearray(vector.datagram)
    for place, value in places:
        datagram[place % len(datagram)] = value
    with contextlib.suppress(MalformedPacket):
        header = parse_geneve(bytes(datagram))
        assert header.length_bytes == 8 + sum(4 + len(one.data) for one in header.options)
