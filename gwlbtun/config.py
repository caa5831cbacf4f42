"""What the operator asks for: read once, checked as a whole, immutable afterwards.

A configuration is a mapping of keys to values, from a TOML file, from the command line, or from
both (the command line wins). Units stand in the names of the keys. Whatever is wrong becomes one
ConfigError, a sentence with the key, its value and what to write instead.

``build_config`` is the only way from raw values to a Config, and it takes a plain mapping: a
section with overrides is that mapping merged over the general one.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
)
from pydantic_core import ErrorDetails

from gwlbtun.errors import ConfigError
from gwlbtun.wire.gwlb import PROFILES, parse_endpoint_id

SECTIONS: Final = ("core", "udp", "geneve", "tunnel", "healthcheck")
"""What can be given a log level of its own."""
LEVELS: Final = ("critical", "important", "info", "debug", "debugdetail")
DEFAULT_LEVEL: Final = "info"


def _is_text(value: object) -> object:
    """IPv4Network and Path would take other things as well; nobody means that."""
    if not isinstance(value, str):
        raise ValueError("it should be text in quotes")  # noqa: TRY004 - pydantic wants it so
    return value


def _is_path(value: Path) -> Path:
    if not value.name or "\0" in str(value):
        raise ValueError("it names no file")
    return value


def _is_interface(value: str) -> str:
    if not 1 <= len(value.encode()) <= 15 or "/" in value or not value.isprintable():
        raise ValueError("it is no interface name of 1 to 15 characters")
    return value


def _read_endpoint_id(value: object) -> object:
    try:
        return parse_endpoint_id(str(_is_text(value)))
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _is_provider(value: str) -> str:
    if value not in PROFILES:
        raise ValueError(f"it should be one of {', '.join(sorted(PROFILES))}")
    return value


def complete_levels(levels: Mapping[str, str]) -> Mapping[str, str]:
    """A level for every section: its own, or that of ``all``, or the default."""
    for section, level in levels.items():
        if section not in (*SECTIONS, "all"):
            raise ValueError(f"{section!r} is no section; there are {', '.join(SECTIONS)} and all")
        if level not in LEVELS:
            raise ValueError(f"{level!r} is no level; there are {', '.join(LEVELS)}")
    general = levels.get("all", DEFAULT_LEVEL)
    return MappingProxyType({section: levels.get(section, general) for section in SECTIONS})


_Integer = Annotated[int, Field(strict=True)]
_Network = Annotated[IPv4Network, BeforeValidator(_is_text)]
_File = Annotated[Path, BeforeValidator(_is_text), AfterValidator(_is_path)]
_Provider = Annotated[str, AfterValidator(_is_provider)]
_Interface = Annotated[str, AfterValidator(_is_interface)]
_EndpointId = Annotated[int, BeforeValidator(_read_endpoint_id)]
_Levels = Annotated[Mapping[str, str], AfterValidator(complete_levels)]


class Config(BaseModel):
    """Everything the daemon is told. Descriptions complete the sentence "write …"."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    allowed_sources: tuple[_Network, ...] = Field(
        min_length=1,
        description="the IPv4 networks in which the load balancer's own addresses are, "
        "such as 10.0.0.0/16; 0.0.0.0/0 trusts everyone",
    )
    provider: _Provider = Field(
        default="aws", description='whose load balancer sends the packets, such as "aws"'
    )
    datapath: Literal["auto", "ebpf", "user"] = Field(
        default="auto",
        description='"ebpf" to keep packets in the kernel, "user" for user space, "auto" for what '
        "the system allows",
    )
    uplinks: tuple[_Interface, ...] = Field(
        default=(),
        description="the interfaces whose packets may stay in the kernel, such as "
        'uplinks = ["eth0"]; none means every Ethernet interface that GWLB packets come in on',
    )
    hairpin_endpoints: tuple[_EndpointId, ...] = Field(
        default=(),
        description="the endpoints whose packets are returned at once without inspection, such as "
        'hairpin_endpoints = ["vpce-0123456789abcdef0"]',
    )
    hairpin_xdp: StrictBool = Field(
        default=False,
        description="true to return them at the driver where it allows native XDP, or false",
    )
    keep: StrictBool = Field(
        default=False,
        description="true to leave interfaces and kernel path in place when the daemon ends, for "
        "the next one to take over without a lost packet, or false to leave nothing",
    )
    receive_buffer_bytes: _Integer = Field(
        default=16 << 20,
        ge=1 << 16,
        le=1 << 30,
        description="the size of the UDP socket's receive buffer in bytes, 65536 to 1073741824",
    )
    max_endpoints: _Integer = Field(
        default=128, ge=1, le=4096, description="how many endpoints are served at once, 1 to 4096"
    )
    endpoint_idle_s: _Integer = Field(
        default=0,
        ge=0,
        description="the seconds without a packet after which an endpoint is removed; 0 is never",
    )
    max_flows: _Integer = Field(
        default=1_000_000,
        ge=1,
        description="how many flows all endpoints together may have, at least 1",
    )
    tcp_idle_s: _Integer = Field(
        default=350,
        ge=60,
        le=6000,
        description="the load balancer's idle timeout of TCP flows in seconds, 60 to 6000",
    )
    other_idle_s: _Integer = Field(
        default=120,
        ge=1,
        le=6000,
        description="the load balancer's idle timeout of all other flows in seconds, 1 to 6000",
    )
    hook_create: _File | None = Field(
        default=None,
        description="the file to run when an endpoint has been created, absolute or relative to "
        "the directory in which the daemon starts",
    )
    hook_destroy: _File | None = Field(
        default=None,
        description="the file to run before an endpoint is removed, absolute or relative to the "
        "directory in which the daemon starts",
    )
    hook_timeout_s: _Integer = Field(
        default=30,
        ge=1,
        le=3600,
        description="the seconds after which a hook is killed, 1 to 3600",
    )
    health_port: _Integer | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="the TCP port that answers health checks, 1 to 65535",
    )
    health_json: StrictBool = Field(
        default=False, description="true for health answers in JSON, false for text"
    )
    health_status_only: StrictBool = Field(
        default=False, description="true for health answers without a body, otherwise false"
    )
    log_levels: _Levels = Field(
        default_factory=dict,
        description="a table from section (or all) to level, "
        'such as log_levels = { all = "info", udp = "debug" }',
    )
    log_packets: StrictBool = Field(
        default=False,
        description="true to log packets in hexadecimal (section tunnel, level debug), or false",
    )


def build_config(values: Mapping[str, object], names: Mapping[str, str] | None = None) -> Config:
    """Check raw values as a whole. ``names`` says what the operator calls a key, if not by its
    name: a command-line option. Raises ConfigError.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        # A misspelt key first: it may be the one that is missing.
        problems = sorted(
            error.errors(include_url=False), key=lambda p: p["type"] != "extra_forbidden"
        )
        sentence = _problem_to_sentence(problems[0], names or {})
        more = len({problem["loc"][0] for problem in problems}) - 1
        if more:
            sentence += f" (and {more} more to correct after that)"
        raise ConfigError(sentence) from error


def read_config_file(path: str | Path) -> dict[str, object]:
    """The raw values of a TOML file. Raises ConfigError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; TOML has to be") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: it is no TOML: nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"{path}: it is no TOML: {error}") from error


def load_config(
    path: str | Path,
    overrides: Mapping[str, object] | None = None,
    names: Mapping[str, str] | None = None,
) -> Config:
    """The configuration of a TOML file, with values that win over the file's. The file has to say
    who may send packets: a default would be either useless or open to everyone.
    """
    values = read_config_file(path)
    try:
        return build_config({**values, **(overrides or {})}, names)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _problem_to_sentence(problem: ErrorDetails, names: Mapping[str, str]) -> str:
    key = str(problem["loc"][0])
    field = Config.model_fields.get(key)
    if field is None:
        close = difflib.get_close_matches(key, Config.model_fields, n=1, cutoff=0.0)
        return f"{key} is no key of the configuration; the nearest one is {close[0]}"
    description = str(field.description)
    if problem["type"] == "missing":
        return f'{key} is missing: write {key} = ["10.0.0.0/16"], that is, {description}'
    value = problem["input"]
    return f"{names.get(key, key)} cannot be {_shown(value)}: {_why(problem)}; write {description}"


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever stood in the file
    text = repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _why(problem: ErrorDetails) -> str:
    """Pydantic's reason as the middle of a sentence."""
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return message[:1].lower() + message[1:] if message[:1] != "'" else message
