"""The kernel path as an object: loaded, attached, told about endpoints, asked about flows.

    uplink, ingress:  decap ──→ gwi          gwi and gwo, egress:  encap ──→ uplink

Uplinks are not searched for: the interface on which a GWLB's first packet arrived is one, and from
then on its packets of known endpoints stay in the kernel. Programs are attached by tcx links where
the kernel has them (6.6) and by clsact filters elsewhere.
"""

from __future__ import annotations

import os
import platform
import re
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gwlbtun.bpf import abi
from gwlbtun.errors import KernelError
from gwlbtun.host.adoption import IsAllowed, Served, adopt_endpoints, adopt_flows, adopt_peers
from gwlbtun.host.attach import TcFilter, TcxLink, XdpLink, get_pinned
from gwlbtun.host.libbpf import BpfMap, BpfObject
from gwlbtun.host.pins import PinDirectory
from gwlbtun.reasons import DropReason
from gwlbtun.wire.inet import TCP

OBJECT_FILE: Final = Path(__file__).parents[1] / "bpf" / "gwlbtun.bpf.o"
DROP_REASONS: Final = (DropReason.TUN_WRITE_FAILED, DropReason.SEND_FAILED)
"""What ends in the programs themselves; everything else that ends does so in user space."""
FLOW_MAPS: Final = ("flows4", "flows6", "fragments4", "fragments6", "errors4", "errors6")
_INGRESS: Final = "ingress"
_EGRESS: Final = "egress"
_MAX_TAG: Final = 0xFFFF
_FRAGMENT_IDLE_S: Final = 30
"""Of fragments as in user space; an error's entry is of use only as long as its flow is."""
_DECAP_L3_SINCE: Final = (6, 3)
_TCX_SINCE: Final = (6, 6)


@dataclass(frozen=True, slots=True)
class OffloadSizes:
    """How much the maps hold."""

    max_flows: int
    max_endpoints: int


class Offload:
    """The loaded programs and their maps; with ``pins`` they outlive this process."""

    def __init__(
        self,
        opt_class: int,
        sizes: OffloadSizes,
        pins: PinDirectory | None = None,
        *,
        has_xdp: bool = False,
        is_allowed: IsAllowed = lambda _: True,
        object_file: Path = OBJECT_FILE,
    ) -> None:
        """Load the programs. Raises KernelError with the reason why the kernel path cannot be."""
        if not object_file.exists():
            raise KernelError(f"{object_file.name} was not built into this package")
        self.uplinks: dict[int, str | None] = {}
        """Interfaces that packets came from, and why one stays with user space, or None."""
        self.is_rebuilt = False
        """Whether pinned maps had to give way: another ABI version or other sizes."""
        self._opt_class = opt_class
        self._sizes = sizes
        self._pins = pins
        self._has_xdp = has_xdp
        self._version = _kernel_version()
        self._attached: dict[int, TcFilter | TcxLink] = {}
        self._xdp: dict[int, XdpLink] = {}
        self._load_any(object_file)
        self._served = adopt_endpoints(self._endpoints, self._devices, sizes.max_endpoints)
        used = {served.index for served in self._served.values()}
        self._free = [i for i in reversed(range(sizes.max_endpoints)) if i not in used]
        self._tags = {served.tag for served in self._served.values()}
        if pins is not None:
            adopt_peers(self._tunnels, is_allowed)
            self._tags |= adopt_flows(self._flow_maps, is_allowed)
        self._next_tag = 0

    def _load_any(self, object_file: Path) -> None:
        """With pinned maps if they fit, else with new ones in their place."""
        pins = self._pins
        if pins is None:
            self._load(object_file)
            return
        pins.create()
        pins.forget_dead_links()
        self.is_rebuilt = pins.has_other_version()
        try:
            self._load(object_file)
        except KernelError:
            if not any(pins.maps.iterdir()):
                raise
            self.is_rebuilt = True
            old = {path.name: get_pinned(path) for path in pins.maps.iterdir()}
            try:
                pins.forget_maps(is_own_version=True)
                self._load(object_file)
                for name, fd in old.items():
                    self._object.map(name).copy_from(fd)
            finally:
                for fd in old.values():
                    os.close(fd)

    def _load(self, object_file: Path) -> None:
        self._object = BpfObject(object_file)
        try:
            self._size_and_load()
        except KernelError:
            self._object.close()
            raise
        self._decap = self._object.program("decap")
        self._encap = self._object.program("encap")
        self._drops = self._object.map("drops")
        self._endpoints = self._object.map("endpoints")
        self._devices = self._object.map("devices")
        self._tunnels = self._object.map("tunnels")
        self._counts = self._object.map("counts")
        self._flow_maps = [self._object.map(name) for name in FLOW_MAPS]
        self.flows4, self.flows6, self.fragments4, self.fragments6, self.errors4, self.errors6 = (
            self._flow_maps
        )

    def _size_and_load(self) -> None:
        has_decap_l3 = self._version >= _DECAP_L3_SINCE
        opt_class = self._opt_class.to_bytes(2, "big")
        self._object.set_constants(abi.SETTINGS.pack(opt_class, has_decap_l3, abi.ABI_VERSION))
        for name, entries in (
            ("flows4", self._sizes.max_flows),
            ("flows6", self._sizes.max_flows),
            ("endpoints", self._sizes.max_endpoints),
            ("devices", 2 * self._sizes.max_endpoints),
            ("counts", self._sizes.max_endpoints),
        ):
            self._object.set_max_entries(name, entries)
        if not self._has_xdp:
            self._object.leave_out("hairpin")  # its helpers are from 5.18
        if self._pins is not None:
            self._object.set_pin_paths(self._pins.maps)
        self._object.load()

    def leave(self) -> None:
        """Let the pins hold everything: packets go on without this process."""
        for attached in (*self._attached.values(), *self._xdp.values()):
            attached.leave()
        self._object.close()

    def close(self) -> None:
        """Detach everything and free the maps."""
        for ifindex in list(self._attached):
            self._detach(ifindex)
        for link in self._xdp.values():
            link.close()
        self._object.close()
        if self._pins is not None:
            self._pins.remove()

    def adopt_uplinks(self, names: Collection[str]) -> list[int]:
        """Put this process's program in the place of an earlier one's on all uplinks, or on those
        named; which. Flows are learned here from now on, while the earlier programs still serve
        what goes out.
        """
        links = [] if self._pins is None else list(self._pins.links(_INGRESS))
        for ifindex, path in links:
            if not self._adopt_uplink(ifindex, names):
                path.unlink(missing_ok=True)
        return list(self.uplinks)

    def _adopt_uplink(self, ifindex: int, names: Collection[str]) -> bool:
        """False where the index means another interface by now, or one that is not named."""
        try:
            if names and socket.if_indextoname(ifindex) not in names:
                return False
            self._attach(ifindex, self._decap, is_egress=False, is_adopted=True)
        except (KernelError, OSError):
            return False
        self.uplinks[ifindex] = None
        return True

    def finish_adoption(self) -> None:
        """All devices have their new programs: nobody uses maps of other versions any more."""
        if self._pins is not None:
            self._pins.forget_maps(is_own_version=False)

    def add_uplink(self, ifindex: int, name: str) -> str | None:
        """Watch an interface that GWLB packets come from; why not, or None."""
        if ifindex not in self.uplinks:
            self.uplinks[ifindex] = self._try_uplink(ifindex, name)
        return self.uplinks[ifindex]

    def allow(self, gwlb: bytes, appliance: bytes) -> None:
        """Let packets between these addresses stay in the kernel."""
        self._tunnels.put(abi.TUNNEL_KEY.pack(gwlb, appliance), b"\1")

    def add_endpoint(self, endpoint_id: int, gwi: int, gwo: int) -> tuple[int, int]:
        """Serve what goes out of an endpoint's interfaces; the index of its counters and the tag of
        its flows. What comes in follows with ``admit_endpoint``. Raises KernelError.
        """
        known = self._served.get(endpoint_id)
        if known is not None and (known.gwi, known.gwo) != (gwi, gwo):
            self.remove_endpoint(endpoint_id)  # of an earlier life: its devices are gone
            known = None
        served = known or self._new(gwi, gwo)
        self._served[endpoint_id] = served
        try:
            for ifindex in (gwi, gwo):
                key = abi.DEVICE_KEY.pack(ifindex)
                self._devices.put(key, abi.DEVICE.pack(served.index, served.tag, served.gwi))
                self._attach(ifindex, self._encap, is_egress=True)
        except KernelError:
            self.remove_endpoint(endpoint_id)
            raise
        return served.index, served.tag

    def admit_endpoint(self, endpoint_id: int, *, is_hairpin: bool = False) -> None:
        """From now on serve what comes in for the endpoint, too. Raises KernelError."""
        served = self._served[endpoint_id]
        flags = abi.ENDPOINT_HAIRPIN if is_hairpin else 0
        value = abi.ENDPOINT.pack(served.gwi, served.gwo, served.index, served.tag, flags)
        self._endpoints.put(abi.ENDPOINT_KEY.pack(endpoint_id), value)

    def _new(self, gwi: int, gwo: int) -> Served:
        if not self._free:
            raise KernelError("the kernel path has no room for one more endpoint")
        index, tag = self._free.pop(), self._new_tag()
        self._counts.put_per_cpu(abi.COUNTERS_KEY.pack(index), bytes(abi.COUNTERS.size))
        return Served(index, tag, gwi, gwo)

    def _new_tag(self) -> int:
        """One that no flow in the maps has. After 65535 endpoints the maps are asked which are
        free again.
        """
        if len(self._tags) >= _MAX_TAG:
            self._tags = adopt_flows(self._flow_maps, lambda _: True)
            self._tags |= {served.tag for served in self._served.values()}
        tag = self._next_tag
        while tag in self._tags or not tag:
            tag = tag % _MAX_TAG + 1
        self._tags.add(tag)
        self._next_tag = tag % _MAX_TAG + 1
        return tag

    def remove_endpoint(self, endpoint_id: int) -> None:
        """Leave an endpoint's packets to user space. Its flows age: nobody has their tag."""
        served = self._served.pop(endpoint_id)
        self._endpoints.delete(abi.ENDPOINT_KEY.pack(endpoint_id))
        for ifindex in (served.gwi, served.gwo):
            self._detach(ifindex)
            self._devices.delete(abi.DEVICE_KEY.pack(ifindex))
        self._free.append(served.index)

    def counters(self, index: int) -> tuple[int, int, int, int]:
        """Packets in, bytes in, packets out, bytes out."""
        values = self._counts.get_per_cpu(abi.COUNTERS_KEY.pack(index))
        packets_in, bytes_in, packets_out, bytes_out = map(
            sum, zip(*map(abi.COUNTERS.unpack, values), strict=True)
        )
        return packets_in, bytes_in, packets_out, bytes_out

    def drops(self) -> dict[str, int]:
        """What the programs themselves had to drop, by the label of the reason."""
        return {
            reason.label: sum(
                abi.DROPS.unpack(value)[0]
                for value in self._drops.get_per_cpu(abi.DROPS_KEY.pack(reason))
            )
            for reason in DROP_REASONS
        }

    def map_bytes(self) -> int:
        """The memory that all maps take, as the kernel counts it."""
        return sum(table.memory_bytes() for table in self._object.all_maps())

    def expire(self, now_s: int, tcp_idle_s: int, other_idle_s: int) -> Iterator[int]:
        """Drop idle flows, some thousand at each step; how many of those are left. All steps
        together cost about half a second per million flows.
        """
        for table in (self.flows4, self.flows6):
            yield from _expire(table, now_s, tcp_idle_s, other_idle_s)
        for table in (self.fragments4, self.fragments6, self.errors4, self.errors6):
            for _ in _expire(table, now_s, _FRAGMENT_IDLE_S, _FRAGMENT_IDLE_S):
                yield 0

    def _try_uplink(self, ifindex: int, name: str) -> str | None:
        try:
            self._attach(ifindex, self._decap, is_egress=False)
        except KernelError as error:
            return f"{name}: {error}"
        return None

    def reflect_at_driver(self, ifindex: int) -> None:
        """Return the packets of hairpin endpoints by XDP. Raises KernelError where the driver does
        not allow it; then decap returns them.
        """
        program = self._object.program("hairpin")
        self._xdp[ifindex] = XdpLink(program, ifindex, self._pin(ifindex, "xdp"))

    def _pin(self, ifindex: int, kind: str) -> Path | None:
        return None if self._pins is None else self._pins.link(ifindex, kind)

    def _attach(
        self, ifindex: int, program: int, *, is_egress: bool, is_adopted: bool = False
    ) -> None:
        pin = self._pin(ifindex, _EGRESS if is_egress else _INGRESS)
        if self._version >= _TCX_SINCE:
            self._attached[ifindex] = TcxLink(
                program, ifindex, is_egress=is_egress, pin=pin, is_adopted=is_adopted
            )
        else:
            self._attached[ifindex] = TcFilter(program, ifindex, is_egress=is_egress, pin=pin)

    def _detach(self, ifindex: int) -> None:
        attached = self._attached.pop(ifindex, None)
        if attached is not None:
            attached.close()


def remove_left_filters() -> None:
    """Remove the filters of a daemon that was killed, on kernels whose filters outlive it."""
    if _kernel_version() < _TCX_SINCE:
        for ifindex, _ in socket.if_nameindex():
            for is_egress in (False, True):
                TcFilter.remove(ifindex, is_egress=is_egress)


def _expire(table: BpfMap, now_s: int, tcp_idle_s: int, other_idle_s: int) -> Iterator[int]:
    """One table: whole batches at a time, so that a million entries take no million steps."""
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
        yield len(seen) - len(old)


def _kernel_version() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)
