"""The rules of AWS for what an appliance gives back, and what else ends a packet.

A broken rule counts under the metric by which AWS would count it (CloudWatch, namespace
AWS/GatewayELB):

1. InvalidGeneveTunnel: outer addresses swapped, UDP source port as sent, destination port 6081, a
   Geneve header that came back byte for byte.
2. InvalidGwlbEndpointId: the endpoint option names an endpoint of this GWLB.
3. MissingFlowEntry: the inner packet belongs to a flow: by its 5-tuple, its fragment train, or the
   packet that it quotes.
4. InvalidGwlbFlowCookie: the cookie is that of the packet's direction. What an appliance may have
   made itself (ICMP errors, resets, any packet in a direction it was never shown) may carry the
   flow's other cookie.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from gwlbtun.errors import MalformedPacket
from gwlbtun.lab.flows import Endpoint, Leg
from gwlbtun.lab.targets import Path
from gwlbtun.lab.tcp import is_reset
from gwlbtun.reasons import DropReason
from gwlbtun.wire.geneve import parse_geneve
from gwlbtun.wire.gwlb import AWS, INNER_MTU_BYTES, GwlbHeader, read_gwlb
from gwlbtun.wire.inet import InnerFlow, Table, parse_inner


class Violation(StrEnum):
    """What an appliance can do wrong, by AWS's names."""

    INVALID_GENEVE_TUNNEL = "PacketsDroppedCount_InvalidGeneveTunnel"
    INVALID_ENDPOINT_ID = "PacketsDroppedCount_InvalidGwlbEndpointId"
    INVALID_FLOW_COOKIE = "PacketsDroppedCount_InvalidGwlbFlowCookie"
    MISSING_FLOW_ENTRY = "PacketsDroppedCount_MissingFlowEntry"


class Drop(StrEnum):
    """What the GWLB drops without a metric of its own."""

    OVERSIZE = "larger_than_8500_bytes"
    MALFORMED = "malformed_inner_packet"
    NO_TARGET = "no_registered_target"
    NO_CONNECTION = "tcp_without_flow_and_not_syn"
    NO_FIRST_FRAGMENT = "fragment_without_first"
    TABLE_FULL = "flow_table_full"


def read_header(datagram: bytes) -> GwlbHeader | Violation:
    """The Geneve header of a returned datagram."""
    try:
        return read_gwlb(parse_geneve(datagram), AWS)
    except MalformedPacket as malformed:
        return _HEADER_VIOLATIONS.get(malformed.reason, Violation.INVALID_GENEVE_TUNNEL)


_HEADER_VIOLATIONS: Final = {
    DropReason.INVALID_GWLB_ENDPOINT_ID: Violation.INVALID_ENDPOINT_ID,
    DropReason.INVALID_GWLB_FLOW_COOKIE: Violation.INVALID_FLOW_COOKIE,
}


def parse_returned(packet: bytes, *, is_ipv6: bool) -> InnerFlow | Drop:
    """The inner packet of a returned datagram."""
    if len(packet) > INNER_MTU_BYTES:
        return Drop.OVERSIZE
    try:
        inner = parse_inner(packet)
    except MalformedPacket:
        return Drop.MALFORMED
    return inner if inner.is_ipv6 == is_ipv6 else Drop.MALFORMED


def judge_flow(
    endpoint: Endpoint, inner: InnerFlow, packet: bytes, cookie: bytes, path: Path
) -> Leg | Violation:
    """Rules 3 and 4, and that the flow went this path."""
    leg = endpoint.locate(inner)
    if leg is None:
        return Violation.MISSING_FLOW_ENTRY
    if not _may_carry(leg, cookie, inner, packet):
        return Violation.INVALID_FLOW_COOKIE
    if path is not leg.flow.path and path not in leg.flow.former_paths:
        return Violation.INVALID_GENEVE_TUNNEL
    return leg


def _may_carry(leg: Leg, cookie: bytes, inner: InnerFlow, packet: bytes) -> bool:
    """Whether a packet of this leg may come back with this cookie."""
    if cookie == leg.cookie:
        return True
    is_appliances_own = (
        not leg.is_sent
        or inner.quote is not None
        or (inner.table is Table.TCP and is_reset(packet))
    )
    return is_appliances_own and cookie == leg.back.cookie
