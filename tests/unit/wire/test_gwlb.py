from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwlbtun.errors import ConfigError, MalformedPacket
from gwlbtun.reasons import DropReason
from gwlbtun.wire.geneve import GeneveHeader, GeneveOption, parse_geneve
from gwlbtun.wire.gwlb import (
    AWS,
    INNER_MTU_BYTES,
    OVERHEAD_BYTES,
    PROFILES,
    TENCENT,
    GwlbHeader,
    ProviderProfile,
    endpoint_id_from_interface,
    endpoint_id_to_base60,
    endpoint_id_to_hex,
    endpoint_interfaces,
    parse_endpoint_id,
    read_gwlb,
)
from tests.vectors import Vector
from tests.vectors.decap import HEADER_VECTORS, MALFORMED_VECTORS
from tests.vectors.geneve import (
    COOKIE,
    ENDPOINT,
    TENCENT_CLASS,
    geneve,
    gwlb_header,
    gwlb_options,
)
from tests.vectors.inet import CLIENT_4, CLIENT_6, tcp

REFUSED_HERE = [
    vector
    for vector in MALFORMED_VECTORS
    if vector.verdict
    in {
        DropReason.GENEVE_CONTROL,
        DropReason.GENEVE_PROTOCOL,
        DropReason.GENEVE_OPTION_CRITICAL,
        DropReason.INVALID_GWLB_ENDPOINT_ID,
        DropReason.INVALID_GWLB_FLOW_COOKIE,
    }
]
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX"
NAMES = [
    (0, "0"),
    (9, "9"),
    (10, "a"),
    (35, "z"),
    (36, "A"),
    (59, "X"),
    (60, "10"),
    (3599, "XX"),
    (18446744073709551615, "uur953OEv0f"),
]


@pytest.mark.parametrize("vector", HEADER_VECTORS, ids=lambda v: v.name)
def test_header_when_its_options_are_complete_is_read(vector: Vector) -> None:
    """RFC 8926, 3.5: order, number and further options are free."""
    header = read_gwlb(parse_geneve(vector.datagram), PROFILES[vector.profile])
    assert header == GwlbHeader(
        endpoint_id=ENDPOINT,
        cookie=COOKIE,
        is_ipv6=False,
        length_bytes=len(vector.header),
        has_cookie_last=vector.header.endswith(COOKIE.to_bytes(4, "big")),
    )


@pytest.mark.parametrize("vector", REFUSED_HERE, ids=lambda v: v.name)
def test_header_when_it_breaks_a_rule_is_refused_by_that_rules_name(vector: Vector) -> None:
    """AWS: two of the rules have the names of GWLB's own drop counters."""
    with pytest.raises(MalformedPacket) as malformed:
        read_gwlb(parse_geneve(vector.datagram), AWS)
    assert malformed.value.reason is vector.verdict


def test_cookie_when_longer_than_4_bytes_is_never_taken_apart() -> None:
    """A provider with another cookie is one more profile, without the shared head of 4 bytes."""
    profile = ProviderProfile("other", 0x0999, cookie_bytes=8)
    header = read_gwlb(parse_geneve(profile.build_header(1, 2**63, is_ipv6=True)), profile)
    assert header == GwlbHeader(1, 2**63, True, 44, has_cookie_last=False)


@pytest.mark.parametrize("inner", [tcp(CLIENT_4), tcp(CLIENT_6)], ids=["ipv4", "ipv6"])
def test_built_header_when_of_aws_is_the_one_of_the_captures(inner: bytes) -> None:
    """AWS: types 1, 2, 3 in this order, 68 bytes with the outer headers."""
    built = AWS.build_header(ENDPOINT, COOKIE, is_ipv6=inner[0] >> 4 == 6)
    assert built == gwlb_header(inner)
    assert len(built) + 28 == OVERHEAD_BYTES == 68
    assert INNER_MTU_BYTES == 8500


def test_built_header_when_of_tencent_has_the_same_shape() -> None:
    """Tencent Cloud: class 0x0167, the same types and lengths."""
    options = gwlb_options(attachment=7, opt_class=TENCENT_CLASS)
    built = TENCENT.build_header(ENDPOINT, COOKIE, is_ipv6=False, attachment_id=7)
    assert built == geneve(b"".join(options), b"", protocol=0x0800)


@pytest.mark.parametrize(("number", "text"), NAMES)
def test_base60_when_given_a_number_writes_the_references_digits(number: int, text: str) -> None:
    """Reference: digits 0-9, a-z, A-X, most significant first, no padding."""
    assert endpoint_id_to_base60(number) == text
    assert endpoint_interfaces(number) == (f"gwi-{text}", f"gwo-{text}")


@given(number=st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=300)
def test_names_of_an_endpoint_when_read_again_give_its_id(number: int) -> None:
    """Two endpoints never share a name, and each fits Linux' 15 characters."""
    gwi, gwo = endpoint_interfaces(number)
    value = 0
    for digit in gwi[4:]:
        value = 60 * value + DIGITS.index(digit)
    assert value == number
    assert (gwi[4:], len(gwi) <= 15) == (gwo[4:], True)
    text = endpoint_id_to_hex(number)
    assert len(text) == 17
    for typed in (text, f"vpce-{text}", text.upper(), f"{number:x}"):
        assert parse_endpoint_id(typed) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vpce-",
        "vpce",
        "0x12",
        "12 ",
        "12\n",
        "-1",
        "+1",
        "1_0",
        "VPCE-12",
        "vpce-vpce-12",
        "g",
        "٣",
        "10000000000000000",
        "fffffffffffffffff",
        "000000000000000000",
    ],
    ids=repr,
)
def test_endpoint_id_when_it_is_none_is_an_error_that_says_so(text: str) -> None:
    """A person typed it: the message has the value and what to write instead."""
    with pytest.raises(ConfigError) as error:
        parse_endpoint_id(text)
    assert str(error.value) == (
        f"{text!r} is no endpoint id: write vpce-0123456789abcdef0, or its hex digits"
    )


@given(
    header=st.builds(
        GeneveHeader,
        st.booleans(),
        st.booleans(),
        st.sampled_from([0x0800, 0x86DD, 0x6558]),
        st.integers(0, 2**24 - 1),
        st.lists(
            st.builds(
                GeneveOption,
                st.sampled_from([0x0108, 0x0167]),
                st.sampled_from([1, 2, 3, 0x81, 9]),
                st.sampled_from([b"", bytes(4), bytes(8), bytes(12)]),
            ),
            max_size=6,
        ).map(tuple),
        st.just(40),
    ),
    profile=st.sampled_from([AWS, TENCENT]),
)
@settings(deadline=None, max_examples=500)
def test_read_when_given_any_header_raises_nothing_else(
    header: GeneveHeader, profile: ProviderProfile
) -> None:
    """A malformed packet is ordinary input."""
    with contextlib.suppress(MalformedPacket):
        read = read_gwlb(header, profile)
        assert (read.endpoint_id, read.cookie) == (0, 0)


@pytest.mark.parametrize("endpoint_id", [0, 59, 60, 0x0123456789ABCDEF, 2**64 - 1])
def test_endpoint_of_an_interface_when_it_is_ours_is_found(endpoint_id: int) -> None:
    """The names lead back to the id, for devices that an earlier process has left."""
    for name in endpoint_interfaces(endpoint_id):
        assert endpoint_id_from_interface(name) == endpoint_id


@pytest.mark.parametrize(
    "name", ["eth0", "gwi", "gwi-", "gwx-1", "gwi-01", "gwi-1Y", "gwo-1!", "gwi-uur953OEv0g"]
)
def test_endpoint_of_an_interface_when_it_is_not_ours_is_none(name: str) -> None:
    """Other names, other digits, leading zeros, and numbers beyond 64 bits."""
    assert endpoint_id_from_interface(name) is None
