"""Why a packet was dropped: one append-only list for both executors, metrics and tests.

The numbers are an ABI shared with the kernel path: never renumber, never reuse, only append.
Four names are the return-path rules of AWS (CloudWatch namespace AWS/GatewayELB); a drop here
under such a name is a packet that GWLB would have had to drop and count under the same one.
"""

from __future__ import annotations

from enum import IntEnum


class DropReason(IntEnum):
    """One value for each way in which a packet can end in the appliance."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> DropReason:
        """A number with its meaning beside it."""
        self = int.__new__(cls, number)
        self._value_ = number
        self.meaning = meaning
        return self

    # From the GWLB, outer headers.
    SOURCE_NOT_ALLOWED = 1, "the outer source address is in none of the allowed networks"
    INVALID_GENEVE_TUNNEL = 2, "the outer addresses cannot be swapped: one is not a unicast host"
    DATAGRAM_TRUNCATED = 3, "the datagram is larger than the receive buffer"
    GENEVE_TRUNCATED = 4, "the datagram ends inside the Geneve header"
    GENEVE_VERSION = 5, "the Geneve version is not 0"
    GENEVE_CONTROL = 6, "the O bit is set: a control packet is for no inner host"
    GENEVE_OPTION_MALFORMED = 7, "a Geneve option reaches past the option area"
    GENEVE_OPTION_CRITICAL = 8, "an unknown Geneve option is marked critical"
    GENEVE_PROTOCOL = 9, "the Geneve protocol type is neither IPv4 nor IPv6"
    INVALID_GWLB_ENDPOINT_ID = 10, "the endpoint id option is missing, doubled or of a wrong length"
    INVALID_GWLB_FLOW_COOKIE = 11, "the flow cookie option is missing, doubled or of a wrong length"
    # The inner packet, in either direction.
    INNER_TRUNCATED = 12, "the inner packet is shorter than its headers say"
    INNER_VERSION = 13, "the inner IP version is not the one of the Geneve protocol type"
    INNER_HEADER = 14, "an inner IP header or extension header is malformed"
    # Endpoints.
    ENDPOINT_LIMIT = 15, "the limit on endpoints is reached"
    ENDPOINT_OPENING = 16, "the endpoint is still being set up and its waiting room is full"
    ENDPOINT_FAILED = 17, "the endpoint's interfaces could not be created; tried again soon"
    TUN_WRITE_FAILED = 18, "the kernel refused the inner packet on gwi"
    # Back to the GWLB.
    MISSING_FLOW_ENTRY = 19, "no flow: the packet never came in from the GWLB, or too long ago"
    FRAGMENT_UNMATCHED = 20, "the first fragment never came, or too many fragments wait for theirs"
    INNER_OVERSIZE = 21, "the inner packet is larger than the 8500 bytes that GWLB carries"
    OUTER_OVERSIZE = 22, "the outer packet is larger than the uplink's MTU"
    SEND_FAILED = 23, "the kernel refused to send the outer packet"
    # Appended later, of any kind.
    SOURCE_INSIDE_TUNNEL = 24, "an inner host speaks Geneve to the appliance, as only GWLB may"

    @property
    def label(self) -> str:
        """The name in logs, metrics and health bodies: ``missing_flow_entry``."""
        return self.name.lower()
