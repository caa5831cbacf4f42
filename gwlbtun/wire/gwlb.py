"""What a gateway load balancer puts into the Geneve options, as one value per provider.

AWS sends three options of class 0x0108: 1 endpoint id (8 bytes), 2 attachment id (8 bytes),
3 flow cookie (4 bytes); outer headers and options are 68 bytes in all, and inner packets have at
most 8500 (docs.aws.amazon.com, Gateway Load Balancers). Tencent Cloud sends the same shape under
class 0x0167. Order, number and further options are free (RFC 8926, section 3.5).

Endpoint ids are integers inside and 17 zero-padded hexadecimal digits outside, so that
``vpce-<id>`` names the VPC endpoint; interfaces carry them in base 60, to fit 15 characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gwlbtun.errors import ConfigError, MalformedPacket
from gwlbtun.reasons import DropReason
from gwlbtun.wire.geneve import (
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    GeneveHeader,
    GeneveOption,
    build_geneve,
)

INNER_MTU_BYTES: Final = 8500
"""The largest packet that GWLB carries."""
OVERHEAD_BYTES: Final = 68
"""Outer IPv4, UDP, Geneve and the three options."""

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWX"
_ENDPOINT_ID: Final = re.compile(r"(?:vpce-)?([0-9a-fA-F]{1,17})")


@dataclass(frozen=True, slots=True)
class ProviderProfile:
    """Where one provider keeps what the appliance needs. A third provider is one more value."""

    name: str
    opt_class: int
    endpoint_type: int = 1
    attachment_type: int = 2
    cookie_type: int = 3
    endpoint_bytes: int = 8
    attachment_bytes: int = 8
    cookie_bytes: int = 4

    def build_header(
        self, endpoint_id: int, cookie: int, *, is_ipv6: bool, attachment_id: int = 0
    ) -> bytes:
        """The Geneve header as this provider sends it."""
        numbers = (
            (self.endpoint_type, endpoint_id, self.endpoint_bytes),
            (self.attachment_type, attachment_id, self.attachment_bytes),
            (self.cookie_type, cookie, self.cookie_bytes),
        )
        options = [
            GeneveOption(self.opt_class, type_, number.to_bytes(size, "big"))
            for type_, number, size in numbers
        ]
        return build_geneve(ETHERTYPE_IPV6 if is_ipv6 else ETHERTYPE_IPV4, options)


AWS: Final = ProviderProfile("aws", 0x0108)
TENCENT: Final = ProviderProfile("tencent", 0x0167)
PROFILES: Final = {profile.name: profile for profile in (AWS, TENCENT)}


@dataclass(frozen=True, slots=True)
class GwlbHeader:
    """The facts of one Geneve header that matter to the appliance.

    ``has_cookie_last`` says that the header ends with the 4 cookie bytes: everything before them
    is then the same for all flows of the endpoint.
    """

    endpoint_id: int
    cookie: int
    is_ipv6: bool
    length_bytes: int
    has_cookie_last: bool


def read_gwlb(header: GeneveHeader, profile: ProviderProfile) -> GwlbHeader:
    """Judge a Geneve header by a provider's rules; MalformedPacket names the rule broken."""
    if header.is_oam:
        raise MalformedPacket(DropReason.GENEVE_CONTROL)
    if header.protocol not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise MalformedPacket(DropReason.GENEVE_PROTOCOL)
    known = {profile.endpoint_type, profile.attachment_type, profile.cookie_type}
    for option in header.options:
        if option.is_critical and (
            option.opt_class != profile.opt_class or option.type not in known
        ):
            raise MalformedPacket(DropReason.GENEVE_OPTION_CRITICAL)
    endpoint = _only(
        header,
        _is(profile.opt_class, profile.endpoint_type),
        profile.endpoint_bytes,
        DropReason.INVALID_GWLB_ENDPOINT_ID,
    )
    is_cookie = _is(profile.opt_class, profile.cookie_type)
    cookie = _only(header, is_cookie, profile.cookie_bytes, DropReason.INVALID_GWLB_FLOW_COOKIE)
    return GwlbHeader(
        endpoint_id=int.from_bytes(endpoint.data, "big"),
        cookie=int.from_bytes(cookie.data, "big"),
        is_ipv6=header.protocol == ETHERTYPE_IPV6,
        length_bytes=header.length_bytes,
        has_cookie_last=is_cookie(header.options[-1]) and profile.cookie_bytes == 4,
    )


def _is(opt_class: int, type_: int) -> Callable[[GeneveOption], bool]:
    return lambda option: option.opt_class == opt_class and option.type == type_


def _only(
    header: GeneveHeader,
    wanted: Callable[[GeneveOption], bool],
    size_bytes: int,
    reason: DropReason,
) -> GeneveOption:
    found = [option for option in header.options if wanted(option)]
    if len(found) != 1 or len(found[0].data) != size_bytes:
        raise MalformedPacket(reason)
    return found[0]


def endpoint_id_to_hex(endpoint_id: int) -> str:
    """17 lower-case hexadecimal digits, zero padded: what follows ``vpce-``."""
    return f"{endpoint_id:017x}"


def parse_endpoint_id(text: str) -> int:
    """Read what a person types: ``vpce-0…``, or up to 17 hexadecimal digits of a 64-bit id."""
    match = _ENDPOINT_ID.fullmatch(text)
    number = int(match[1], 16) if match else 1 << 64
    if number >> 64:
        message = f"{text!r} is no endpoint id: write vpce-0123456789abcdef0, or its hex digits"
        raise ConfigError(message)
    return number


def endpoint_id_to_base60(endpoint_id: int) -> str:
    """``<X>`` of ``gwi-<X>``: base 60, most significant digit first, no padding."""
    digits = ""
    while True:
        endpoint_id, digit = divmod(endpoint_id, len(_DIGITS))
        digits = _DIGITS[digit] + digits
        if not endpoint_id:
            return digits


def endpoint_id_from_interface(name: str) -> int | None:
    """The endpoint of ``gwi-<X>`` or ``gwo-<X>``; None for any other name."""
    prefix, _, digits = name.partition("-")
    if prefix not in ("gwi", "gwo") or not digits or not set(digits) <= set(_DIGITS):
        return None
    number = 0
    for digit in digits:
        number = number * len(_DIGITS) + _DIGITS.index(digit)
    is_canonical = not number >> 64 and name in endpoint_interfaces(number)
    return number if is_canonical else None


def endpoint_interfaces(endpoint_id: int) -> tuple[str, str]:
    """The names of an endpoint's two interfaces, at most 15 characters each."""
    suffix = endpoint_id_to_base60(endpoint_id)
    return f"gwi-{suffix}", f"gwo-{suffix}"
