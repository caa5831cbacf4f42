"""What of the state that an earlier process left is still true.

Pinned maps speak of interfaces by index and of flows by tag, and both may mean something else by
now: an index is used again once its interface is gone, configuration changes who may send, and
what user space held ended with its process.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gwlbtun.bpf import abi
from gwlbtun.host.libbpf import BpfMap
from gwlbtun.wire.gwlb import endpoint_interfaces

IsAllowed = Callable[[bytes], bool]
"""Whether a GWLB's address, 4 bytes in network order, may send."""
_FLAGS_HALFWORD: Final = 27
_HALFWORDS: Final = abi.FLOW.size // 2


@dataclass(frozen=True, slots=True)
class Served:
    """An endpoint in the maps: the index of its counters, the tag of its flows, its devices."""

    index: int
    tag: int
    gwi: int
    gwo: int


def adopt_endpoints(endpoints: BpfMap, devices: BpfMap, max_endpoints: int) -> dict[int, Served]:
    """The endpoints whose entry is true; all others, and all devices of others, are deleted."""
    served: dict[int, Served] = {}
    for keys, values in list(endpoints.batches()):
        entries = zip(
            abi.ENDPOINT_KEY.iter_unpack(keys), abi.ENDPOINT.iter_unpack(values), strict=True
        )
        for (endpoint_id,), (gwi, gwo, index, tag, _) in entries:
            names = endpoint_interfaces(endpoint_id)
            if (_name(gwi), _name(gwo)) == names and index < max_endpoints:
                served[endpoint_id] = Served(index, tag, gwi, gwo)
            else:
                endpoints.delete(abi.ENDPOINT_KEY.pack(endpoint_id))
    known = {ifindex for each in served.values() for ifindex in (each.gwi, each.gwo)}
    for keys, _ in list(devices.batches()):
        for (ifindex,) in abi.DEVICE_KEY.iter_unpack(keys):
            if ifindex not in known:
                devices.delete(abi.DEVICE_KEY.pack(ifindex))
    return served


def adopt_flows(tables: Iterable[BpfMap], is_allowed: IsAllowed) -> set[int]:
    """Delete the flows that user space held and those of senders who may not send any more; the
    tags of all that are left.
    """
    tags: set[int] = set()
    verdicts: dict[bytes, bool] = {}
    for table in tables:
        size = table.key_bytes
        for keys, values in table.batches():
            flags = memoryview(values).cast("H")[_FLAGS_HALFWORD::_HALFWORDS].tolist()
            gone = []
            for i, flag in enumerate(flags):
                gwlb = _gwlb(values, i)
                is_good = verdicts.get(gwlb)
                if is_good is None:
                    is_good = verdicts[gwlb] = is_allowed(gwlb)
                if flag & abi.FLOW_IN_USER_SPACE or not is_good:
                    gone.append(keys[i * size : (i + 1) * size])
            table.delete_batch(b"".join(gone))
            tags.update(memoryview(keys).cast("H")[size // 2 - 2 :: size // 2].tolist())
    return tags


def _gwlb(values: bytes, i: int) -> bytes:
    start = i * abi.FLOW.size + abi.OPTIONS_BYTES
    return values[start : start + 4]


def adopt_peers(tunnels: BpfMap, is_allowed: IsAllowed) -> None:
    """Forget who may not send any more."""
    for keys, _ in list(tunnels.batches()):
        for gwlb, appliance in abi.TUNNEL_KEY.iter_unpack(keys):
            if not is_allowed(gwlb):
                tunnels.delete(abi.TUNNEL_KEY.pack(gwlb, appliance))


def _name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return ""
