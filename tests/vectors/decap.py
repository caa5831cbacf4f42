"""Datagrams from the GWLB and the verdict on each. Both executors must agree on every one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gwlbtun.reasons import DropReason
from tests.vectors.decap_inner import BAD_INNER_PACKETS, INNER_PACKETS
from tests.vectors.geneve import (
    AWS_CLASS,
    EMPTY_OPTION,
    ENDPOINT,
    FULL_AREA,
    TENCENT_CLASS,
    UNKNOWN_OPTION,
    geneve,
    gwlb,
    gwlb_options,
    option,
)
from tests.vectors.inet import CLIENT_4, CLIENT_6, tcp


@dataclass(frozen=True, slots=True)
class Vector:
    """``verdict`` is the endpoint that takes ``inner``, or why nobody does."""

    name: str
    source: str
    datagram: bytes
    verdict: DropReason | int
    inner: bytes = b""
    profile: str = "aws"

    @property
    def header(self) -> bytes:
        """The Geneve header of an accepted datagram: what has to come back."""
        return self.datagram[: -len(self.inner)]


_INNER: Final = tcp(CLIENT_4, b"hello")
_ENDPOINT, _ATTACHMENT, _COOKIE = gwlb_options()
_ORDERS: Final = {
    "endpoint-cookie-attachment": [_ENDPOINT, _COOKIE, _ATTACHMENT],
    "attachment-endpoint-cookie": [_ATTACHMENT, _ENDPOINT, _COOKIE],
    "attachment-cookie-endpoint": [_ATTACHMENT, _COOKIE, _ENDPOINT],
    "cookie-endpoint-attachment": [_COOKIE, _ENDPOINT, _ATTACHMENT],
    "cookie-attachment-endpoint": [_COOKIE, _ATTACHMENT, _ENDPOINT],
    "no-attachment": [_ENDPOINT, _COOKIE],
    "attachment-twice": [_ENDPOINT, _ATTACHMENT, _ATTACHMENT, _COOKIE],
    "unknown-first": [UNKNOWN_OPTION, _ENDPOINT, _ATTACHMENT, _COOKIE],
    "unknown-between": [_ENDPOINT, UNKNOWN_OPTION, _ATTACHMENT, EMPTY_OPTION, _COOKIE],
    "unknown-last": [_ENDPOINT, _ATTACHMENT, _COOKIE, UNKNOWN_OPTION],
    "empty-last": [_ENDPOINT, _ATTACHMENT, _COOKIE, EMPTY_OPTION],
    "critical-attachment-type-of-another-class": [*gwlb_options(), option(0x0132, 3, b"abcd")],
    "252-bytes-cookie-last": [*FULL_AREA, _ENDPOINT, _ATTACHMENT, _COOKIE],
    "252-bytes-cookie-first": [_COOKIE, _ENDPOINT, _ATTACHMENT, *FULL_AREA],
    "reserved-option-bits": [_ENDPOINT, option(AWS_CLASS, 2, bytes(8), words=0xE2), _COOKIE],
}
_ORDER_RULE: Final = "RFC 8926, 3.5: any order, any further options; AWS: all are echoed"


def _accepted(name: str, source: str, datagram: bytes, profile: str = "aws") -> Vector:
    return Vector(name, source, datagram, ENDPOINT, _INNER, profile)


HEADER_VECTORS: Final = [
    _accepted("aws", "AWS: three options of class 0x0108, 68 bytes in all", gwlb(_INNER)),
    *(
        _accepted(f"options-{name}", _ORDER_RULE, geneve(b"".join(options), _INNER))
        for name, options in _ORDERS.items()
    ),
    _accepted(
        "attachment-filled",
        "AWS: the attachment id may be filled one day, same length",
        geneve(b"".join(gwlb_options(attachment=2**64 - 1)), _INNER),
    ),
    _accepted(
        "critical-flag-without-critical-option",
        "RFC 8926, 3.4: C announces critical options; none of them is unknown",
        geneve(b"".join(gwlb_options()), _INNER, flags=0x40),
    ),
    _accepted(
        "reserved-bits",
        "RFC 8926, 3.4: reserved bits are ignored on receipt",
        geneve(b"".join(gwlb_options()), _INNER, flags=0x3F, vni_reserved=0xFF),
    ),
    _accepted(
        "vni",
        "AWS: VNI 0 in captures; a tolerant reader takes any and echoes it",
        geneve(b"".join(gwlb_options()), _INNER, vni_reserved=0x123456 << 8),
    ),
    _accepted(
        "tencent",
        "Tencent Cloud: the same shape under class 0x0167",
        geneve(b"".join(gwlb_options(opt_class=TENCENT_CLASS)), _INNER),
        "tencent",
    ),
]

INNER_VECTORS: Final = [
    Vector(name, source, gwlb(inner), ENDPOINT, inner) for name, source, inner in INNER_PACKETS
]


def _bad(reason: DropReason, source: str, cases: dict[str, bytes]) -> list[Vector]:
    return [
        Vector(f"{reason.label}-{name}", source, datagram, reason)
        for name, datagram in cases.items()
    ]


_OPTIONS: Final = b"".join(gwlb_options())
_LONG_ID: Final = option(AWS_CLASS, 1, bytes(12))
_LONG_COOKIE: Final = option(AWS_CLASS, 3, bytes(8))

MALFORMED_VECTORS: Final = [
    *_bad(
        DropReason.GENEVE_TRUNCATED,
        "RFC 8926, 3.4",
        {
            "empty": b"",
            "base": gwlb(_INNER)[:7],
            "options": gwlb(_INNER)[:39],
            "options-longer-than-datagram": geneve(_OPTIONS, b"", words=63),
        },
    ),
    *_bad(
        DropReason.GENEVE_VERSION,
        "RFC 8926, 3.4: an unknown version is dropped",
        {str(version): geneve(_OPTIONS, _INNER, version=version) for version in (1, 2, 3)},
    ),
    *_bad(
        DropReason.GENEVE_CONTROL,
        "RFC 8926, 3.4: O packets are for the tunnel end's control plane",
        {"packet": geneve(_OPTIONS, _INNER, flags=0x80)},
    ),
    *_bad(
        DropReason.GENEVE_OPTION_MALFORMED,
        "RFC 8926, 3.5: the options fill the option area exactly",
        {
            "one-word-too-long": geneve(_OPTIONS[:-8] + option(AWS_CLASS, 3, words=2), _INNER),
            "longest-into-inner": geneve(_OPTIONS + option(1, 1, words=31), _INNER),
            "area-cut-inside-cookie": geneve(_OPTIONS, _INNER, words=7),
            "area-cut-inside-endpoint": geneve(_OPTIONS, _INNER, words=1),
        },
    ),
    *_bad(
        DropReason.GENEVE_OPTION_CRITICAL,
        "RFC 8926, 3.5: an unknown option with the critical bit drops the packet",
        {
            "of-another-class": gwlb(_INNER, after=[option(0x0109, 0x81)]),
            "of-the-class": gwlb(_INNER, before=[option(AWS_CLASS, 0x81, bytes(8))]),
        },
    ),
    *_bad(
        DropReason.GENEVE_PROTOCOL,
        "AWS: protocol type 0x0800 or 0x86dd, no inner Ethernet",
        {
            f"{protocol:04x}": geneve(_OPTIONS, _INNER, protocol=protocol)
            for protocol in (0, 0x0806, 0x6558, 0x8847, 0xFFFF)
        },
    ),
    *_bad(
        DropReason.INVALID_GWLB_ENDPOINT_ID,
        "AWS: PacketsDroppedCount_InvalidGwlbEndpointId",
        {
            "no-options": geneve(b"", _INNER),
            "missing": geneve(_ATTACHMENT + _COOKIE, _INNER),
            "doubled": geneve(_ENDPOINT + _OPTIONS, _INNER),
            "short": geneve(option(AWS_CLASS, 1, bytes(4)) + _COOKIE, _INNER),
            "long": geneve(_LONG_ID + _ATTACHMENT + _COOKIE, _INNER),
            "empty": geneve(option(AWS_CLASS, 1) + _COOKIE, _INNER),
            "of-tencent": geneve(b"".join(gwlb_options(opt_class=TENCENT_CLASS)), _INNER),
        },
    ),
    *_bad(
        DropReason.INVALID_GWLB_FLOW_COOKIE,
        "AWS: PacketsDroppedCount_InvalidGwlbFlowCookie",
        {
            "missing": geneve(_ENDPOINT + _ATTACHMENT, _INNER),
            "doubled": geneve(_OPTIONS + _COOKIE, _INNER),
            "long": geneve(_ENDPOINT + _ATTACHMENT + _LONG_COOKIE, _INNER),
            "empty": geneve(_ENDPOINT + _ATTACHMENT + option(AWS_CLASS, 3), _INNER),
        },
    ),
    *_bad(
        DropReason.INNER_VERSION,
        "RFC 8926, 3.4: the protocol type names what follows",
        {
            "6-in-0800": geneve(_OPTIONS, tcp(CLIENT_6), protocol=0x0800),
            "4-in-86dd": geneve(_OPTIONS, tcp(CLIENT_4, bytes(20)), protocol=0x86DD),
            "0": geneve(_OPTIONS, bytes(40)),
            "5": geneve(_OPTIONS, b"\x55" + _INNER[1:]),
            "15": geneve(_OPTIONS, b"\xf5" + _INNER[1:]),
        },
    ),
    *(
        Vector(f"{reason.label}-{name}", source, gwlb(inner), reason)
        for reason, name, source, inner in BAD_INNER_PACKETS
    ),
]

DECAP_VECTORS: Final = HEADER_VECTORS + INNER_VECTORS + MALFORMED_VECTORS
