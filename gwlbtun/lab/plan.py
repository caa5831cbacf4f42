"""What a lab consists of, as plain values: names, addresses, where its state lies. Touches nothing.

    client-1 ── gwlbe0 ┐                        ┌ target-1 ──veth── uplink  appliance-1
    server-1 ── gwlbe0 ┤   simulator in gwlb    │
    client-2 ── gwlbe0 ┤   (TUN in, Geneve out) └ target-2 ──veth── uplink  appliance-2
    server-2 ── gwlbe0 ┘

Every endpoint has the same inner addresses, on purpose: they must never meet.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final

from gwlbtun.errors import ConfigError
from gwlbtun.lab.settings import GwlbSettings
from gwlbtun.wire.gwlb import INNER_MTU_BYTES

DEFAULT_NAME: Final = "gwlblab"
STATE_ROOT: Final = Path("/run/gwlbtun-lab")
DEVICE: Final = "gwlbe0"
"""A client's and a server's only device."""
UPLINK: Final = "uplink"
"""An appliance's only device."""
DEVICE_MTU_BYTES: Final = INNER_MTU_BYTES
UPLINK_MTU_BYTES: Final = 9001
"""As on EC2."""
CLIENT_ADDRESSES: Final = ("10.1.0.10", "fd00:1::10")
SERVER_ADDRESSES: Final = ("10.2.0.10", "fd00:2::10")
CLIENT_NETWORKS: Final = (IPv4Network("10.1.0.0/24"), IPv6Network("fd00:1::/64"))

_FIRST_ENDPOINT_ID: Final = 0x0E5D_0000_0000_0001
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
_LIMITS: Final = {"endpoints": 20, "appliances": 20, "nodes": 9}


@dataclass(frozen=True, slots=True)
class LabPlan:
    """A lab before it exists. Endpoints and appliances are counted from 1."""

    name: str = DEFAULT_NAME
    endpoints: int = 2
    appliances: int = 1
    nodes: int = 2
    settings: GwlbSettings = field(default_factory=GwlbSettings)

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"{self.name!r} is no lab name: up to 32 lower-case letters, digits and hyphens"
            )
        for what, limit in _LIMITS.items():
            number = getattr(self, what)
            if not 1 <= number <= limit:
                raise ConfigError(f"a lab has 1 to {limit} {what}, not {number}")

    @property
    def state_dir(self) -> Path:
        """Plan, process ids, logs and the control socket."""
        return STATE_ROOT / self.name

    @property
    def file(self) -> Path:
        """Where the plan is written down."""
        return self.state_dir / "lab.json"

    @property
    def control_socket(self) -> Path:
        """Where the simulator listens."""
        return self.state_dir / "control.sock"

    @property
    def roles(self) -> list[str]:
        """Every namespace of the lab by its role."""
        sides = [f"{side}-{n}" for n in self.endpoint_numbers for side in ("client", "server")]
        return [*sides, "gwlb", *(f"appliance-{n}" for n in self.appliance_numbers)]

    @property
    def endpoint_numbers(self) -> range:
        """1 to the number of endpoints."""
        return range(1, self.endpoints + 1)

    @property
    def appliance_numbers(self) -> range:
        """1 to the number of appliances."""
        return range(1, self.appliances + 1)

    def namespace(self, role: str) -> str:
        """The network namespace of a role; a role without number means number 1."""
        candidate = role if role in self.roles else f"{role}-1"
        if candidate not in self.roles:
            raise ConfigError(f"lab {self.name} has no {role!r}; it has {', '.join(self.roles)}")
        return f"{self.name}-{candidate}"

    def endpoint_id(self, number: int) -> int:
        """The 64-bit id of an endpoint."""
        if number not in self.endpoint_numbers:
            raise ConfigError(f"lab {self.name} has no endpoint {number}")
        return _FIRST_ENDPOINT_ID + number - 1

    def appliance_address(self, number: int) -> str:
        """Where the GWLB finds an appliance."""
        return f"10.99.{number}.10"

    def node_addresses(self, number: int) -> list[str]:
        """The GWLB nodes as an appliance sees them."""
        return [f"10.99.{number}.{node}" for node in range(1, self.nodes + 1)]

    def to_json(self) -> str:
        """For the state directory."""
        return json.dumps({**asdict(self), "settings": self.settings.model_dump()}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> LabPlan:
        """Read back what to_json wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "settings": GwlbSettings.model_validate(fields["settings"])})
