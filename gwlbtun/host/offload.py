"""The kernel path as an object: loaded, attached, told about endpoints, asked about flows.

    uplink, ingress:  decap ──→ gwi          gwi and gwo, egress:  encap ──→ uplink

Uplinks are not searched for: the interface on which a GWLB's first packet arrived is one, and from
then on its packets of known endpoints stay in the kernel. Programs are attached by tcx links where
the kernel has them (6.6) and by clsact filters elsewhere.
"""

from __future__ import annotations

import platform
import re
import struct
import sys
from pathlib import Path
from typing import Final

from gwlbtun.bpf import abi
from gwlbtun.errors import KernelError
from gwlbtun.host.libbpf import BpfMap, BpfObject, TcFilter, TcxLink
from gwlbtun.wire.inet import TCP

OBJECT_FILE: Final = Path(__file__).parents[1] / "bpf" / "gwlbtun.bpf.o"
_DECAP_L3_SINCE: Final = (6, 3)
_TCX_SINCE: Final = (6, 6)


class Offload:
    """The loaded programs and their maps."""

    def __init__(
        self, opt_class: int, max_flows: int, max_endpoints: int, *, object_file: Path = OBJECT_FILE
    ) -> None:
        """Load the programs. Raises KernelError with the reason why the kernel path cannot be."""
        if not object_file.exists():
            raise KernelError(f"{object_file.name} was not built into this package")
        version = _kernel_version()
        self._has_tcx = version >= _TCX_SINCE
        self._object = BpfObject(object_file)
        try:
            self._load(opt_class, max_flows, max_endpoints, version)
        except KernelError:
            self._object.close()
            raise
        self._attached: dict[int, TcFilter | TcxLink] = {}
        self._served: dict[int, tuple[int, int, int]] = {}
        self._free = list(range(max_endpoints - 1, -1, -1))
        self.uplinks: dict[int, str | None] = {}
        """Interfaces that packets came from, and why one stays with user space, or None."""

    def _load(
        self, opt_class: int, max_flows: int, max_endpoints: int, version: tuple[int, int]
    ) -> None:
        self._object.set_constants(
            abi.SETTINGS.pack(
                opt_class.to_bytes(2, "big"), version >= _DECAP_L3_SINCE, abi.ABI_VERSION
            )
        )
        for name, entries in (
            ("flows4", max_flows),
            ("flows6", max_flows),
            ("endpoints", max_endpoints),
            ("devices", 2 * max_endpoints),
            ("counts", max_endpoints),
        ):
            self._object.set_max_entries(name, entries)
        self._object.load()
        self._decap = self._object.program("decap")
        self._encap = self._object.program("encap")
        self._endpoints = self._object.map("endpoints")
        self._devices = self._object.map("devices")
        self._tunnels = self._object.map("tunnels")
        self._counts = self._object.map("counts")
        self.flows4 = self._object.map("flows4")
        self.flows6 = self._object.map("flows6")
        self.fragments4 = self._object.map("fragments4")
        self.fragments6 = self._object.map("fragments6")
        self.errors4 = self._object.map("errors4")
        self.errors6 = self._object.map("errors6")
        self._flow_maps = (
            *(self.flows4, self.flows6, self.fragments4, self.fragments6),
            *(self.errors4, self.errors6),
        )

    def close(self) -> None:
        """Detach everything and free the maps."""
        for ifindex in list(self._attached):
            self._detach(ifindex)
        self._object.close()

    def add_uplink(self, ifindex: int, name: str) -> str | None:
        """Watch an interface that GWLB packets come from; why not, or None."""
        if ifindex not in self.uplinks:
            self.uplinks[ifindex] = self._try_uplink(ifindex, name)
        return self.uplinks[ifindex]

    def allow(self, gwlb: bytes, appliance: bytes) -> None:
        """Let packets between these addresses stay in the kernel."""
        self._tunnels.put(abi.TUNNEL_KEY.pack(gwlb, appliance), b"\1")

    def add_endpoint(self, endpoint_id: int, gwi: int, gwo: int) -> int:
        """Serve an endpoint by its interface indices; its own index. Raises KernelError."""
        if not self._free:
            raise KernelError("the kernel path has no room for one more endpoint")
        index = self._free.pop()
        self._served[endpoint_id] = (index, gwi, gwo)
        try:
            for ifindex in (gwi, gwo):
                self._devices.put(abi.DEVICE.pack(ifindex), abi.DEVICE.pack(index))
                self._attach(ifindex, self._encap, is_egress=True)
            self._endpoints.put(
                abi.ENDPOINT_KEY.pack(endpoint_id), abi.ENDPOINT.pack(gwi, gwo, index, 0)
            )
        except KernelError:
            self.remove_endpoint(endpoint_id)
            raise
        return index

    def remove_endpoint(self, endpoint_id: int) -> None:
        """Leave an endpoint's packets to user space. Its flows are of no use to anyone and go."""
        index, *interfaces = self._served.pop(endpoint_id)
        self._endpoints.delete(abi.ENDPOINT_KEY.pack(endpoint_id))
        for ifindex in interfaces:
            self._detach(ifindex)
            self._devices.delete(abi.DEVICE.pack(ifindex))
        self._forget_flows(index)
        self._counts.put_per_cpu(struct.pack("=I", index), bytes(abi.COUNTERS.size))
        self._free.append(index)

    def counters(self, index: int) -> tuple[int, int, int, int]:
        """Packets in, bytes in, packets out, bytes out."""
        per_cpu = map(abi.COUNTERS.unpack, self._counts.get_per_cpu(struct.pack("=I", index)))
        packets_in, bytes_in, packets_out, bytes_out = map(sum, zip(*per_cpu, strict=True))
        return packets_in, bytes_in, packets_out, bytes_out

    def expire(self, now_s: int, tcp_idle_s: int, other_idle_s: int) -> int:
        """Drop idle flows; how many are left. Costs about half a second per million."""
        left = 0
        for table in (self.flows4, self.flows6):
            left += _expire(table, now_s, tcp_idle_s, other_idle_s)
        return left

    def _forget_flows(self, index: int) -> None:
        for table in self._flow_maps:
            offset = table.key_bytes - 4  # of the endpoint's index, in the key or in its quote
            wanted = index.to_bytes(2, sys.byteorder)
            for keys, _ in table.batches():
                size = table.key_bytes
                table.delete_batch(
                    b"".join(
                        keys[i : i + size]
                        for i in range(0, len(keys), size)
                        if keys[i + offset : i + offset + 2] == wanted
                    )
                )

    def _try_uplink(self, ifindex: int, name: str) -> str | None:
        try:
            self._attach(ifindex, self._decap, is_egress=False)
        except KernelError as error:
            return f"{name}: {error}"
        return None

    def _attach(self, ifindex: int, program: int, *, is_egress: bool) -> None:
        kind = TcxLink if self._has_tcx else TcFilter
        self._attached[ifindex] = kind(program, ifindex, is_egress=is_egress)

    def _detach(self, ifindex: int) -> None:
        attached = self._attached.pop(ifindex, None)
        if attached is not None:
            attached.close()


def _expire(table: BpfMap, now_s: int, tcp_idle_s: int, other_idle_s: int) -> int:
    """One table: whole batches at a time, so that a million entries take no million steps."""
    left = 0
    size = table.key_bytes
    for keys, values in table.batches():
        seen = memoryview(values).cast("I")[abi.SEEN_WORD :: abi.FLOW.size // 4].tolist()
        protocols = keys[size - 2 :: size]
        old = [
            i
            for i, second in enumerate(seen)
            if second < now_s - (tcp_idle_s if protocols[i] == TCP else other_idle_s)
        ]
        table.delete_batch(b"".join(keys[i * size : (i + 1) * size] for i in old))
        left += len(seen) - len(old)
    return left


def _kernel_version() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)
