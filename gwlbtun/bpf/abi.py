"""The mirror of abi.h: keys and values of the maps as packed bytes. A test compares the two.

Numbers of packets are in network order, as they stand there; indices and ages in host order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

ABI_VERSION: Final = 1
OPTIONS_BYTES: Final = 32
KEY_FLOW: Final = 0
KEY_FRAGMENT: Final = 1
FLOW_IN_USER_SPACE: Final = 1
ENDPOINT_HAIRPIN: Final = 1

SETTINGS: Final = struct.Struct("=2sBB")
"""struct settings: option class (network order), has_decap_l3, abi_version."""
ENDPOINT_KEY: Final = struct.Struct("!Q")
ENDPOINT: Final = struct.Struct("=IIIHH")
"""struct endpoint: gwi, gwo, index, tag, flags."""
DEVICE_KEY: Final = struct.Struct("=I")
DEVICE: Final = struct.Struct("=IHxxI")
"""struct device: index, tag, gwi."""
COUNTERS_KEY: Final = struct.Struct("=I")
TUNNEL_KEY: Final = struct.Struct("4s4s")
FLOW_KEY4: Final = struct.Struct("=8s4sHBB")
FLOW_KEY6: Final = struct.Struct("=32s4sHBB")
"""struct flow_key: addresses, ports (identifier twice, fragment id), tag, protocol, kind."""
ERROR_KEY4: Final = struct.Struct("8s16s")
ERROR_KEY6: Final = struct.Struct("32s40s")
FLOW: Final = struct.Struct("=32s4s4s2s6s6sHII")
"""struct flow: options, gwlb, appliance, port, gwlb_mac, uplink_mac, flags, uplink, seen_s."""
COUNTERS: Final = struct.Struct("=QQQQ")
DROPS_KEY: Final = struct.Struct("=I")
DROPS: Final = struct.Struct("=Q")
MAX_DROP_REASONS: Final = 64
SEEN_WORD: Final = 15
"""Where seen_s is, in 32-bit words of struct flow."""


@dataclass(frozen=True, slots=True)
class KernelFlow:
    """An entry of a flow map."""

    options: bytes
    gwlb: bytes
    appliance: bytes
    port: int
    is_in_user_space: bool


def parse_flow(value: bytes) -> KernelFlow:
    """Read a map value."""
    options, gwlb, appliance, port, _, _, flags, _, _ = FLOW.unpack(value)
    return KernelFlow(
        options, gwlb, appliance, int.from_bytes(port, "big"), bool(flags & FLOW_IN_USER_SPACE)
    )


def build_user_space_flow(seen_s: int) -> bytes:
    """A map value that sends a flow's packets up to the daemon."""
    return FLOW.pack(b"", b"", b"", b"", b"", b"", FLOW_IN_USER_SPACE, 0, seen_s)
