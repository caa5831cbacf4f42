"""config: one sentence for every mistake, one immutable value otherwise."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from pydantic import ValidationError

from gwlbtun.config import Config, build_config, load_config
from gwlbtun.errors import ConfigError

SOURCES = 'allowed_sources = ["10.0.0.0/16"]\n'


def load(tmp_path: Path, text: str | bytes, **overrides: object) -> Config:
    file = tmp_path / "gwlbtun.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(file, overrides)


def mistake(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{tmp_path}/gwlbtun.toml: ")
    return sentence


def test_config_when_only_sources_are_stated_then_has_the_documented_defaults(
    tmp_path: Path,
) -> None:
    """Defaults are GWLB's own (350 s TCP, 120 s everything else) and the reference's."""
    config = load(tmp_path, SOURCES)
    assert config.allowed_sources == (IPv4Network("10.0.0.0/16"),)
    assert (config.tcp_idle_s, config.other_idle_s, config.endpoint_idle_s) == (350, 120, 0)
    assert (config.max_flows, config.max_endpoints) == (1_000_000, 128)
    assert config.receive_buffer_bytes == 16 << 20
    assert (config.hook_create, config.hook_destroy, config.hook_timeout_s) == (None, None, 30)
    assert config.health_port is None
    assert set(config.log_levels.values()) == {"info"}


def test_config_when_changed_then_refuses(tmp_path: Path) -> None:
    """Configuration is immutable, its mappings too."""
    config = load(tmp_path, SOURCES)
    with pytest.raises(ValidationError):
        config.max_flows = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.log_levels["udp"] = "debug"  # type: ignore[index]


def test_config_when_sources_are_missing_then_says_what_to_write(tmp_path: Path) -> None:
    """A file has to state who may send packets."""
    assert 'write allowed_sources = ["10.0.0.0/16"]' in mistake(tmp_path, "max_flows = 5")


def test_config_when_a_key_is_unknown_then_names_the_nearest(tmp_path: Path) -> None:
    """An unknown key is an error that names the nearest known key."""
    sentence = mistake(tmp_path, SOURCES + "tcp_idle = 350")
    assert sentence.endswith(
        "tcp_idle is no key of the configuration; the nearest one is tcp_idle_s"
    )


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("tcp_idle_s = 59", ["tcp_idle_s cannot be 59", "greater than or equal to 60", "6000"]),
        ("tcp_idle_s = 6001", ["tcp_idle_s cannot be 6001", "less than or equal to 6000"]),
        ('max_flows = "5"', ["max_flows cannot be '5'", "valid integer"]),
        ("max_flows = true", ["max_flows cannot be True", "valid integer"]),
        ("max_flows = 0", ["max_flows cannot be 0"]),
        ("max_endpoints = 4097", ["max_endpoints cannot be 4097", "1 to 4096"]),
        ("health_port = 65536", ["health_port cannot be 65536", "65535"]),
        ("health_json = 1", ["health_json cannot be 1", "boolean"]),
        ('provider = "gcp"', ["provider cannot be 'gcp'", "aws, tencent"]),
        ('hook_create = ""', ["hook_create cannot be ''", "names no file"]),
        ('hook_create = "a\\u0000b"', ["hook_create", "names no file"]),
        ("hook_timeout_s = 0", ["hook_timeout_s cannot be 0"]),
        ('log_levels = { udp = "loud" }', ["'loud' is no level", "debugdetail"]),
        ('log_levels = { tcp = "info" }', ["'tcp' is no section", "healthcheck"]),
        ("log_levels = { udp = 5 }", ["log_levels cannot be 5", "valid string"]),
        ("max_flows = 0\nmax_endpoints = 0", ["and 1 more"]),
    ],
)
def test_config_when_a_value_is_wrong_then_names_key_value_and_remedy(
    tmp_path: Path, line: str, parts: list[str]
) -> None:
    """Messages are sentences with the offending value and what to do."""
    sentence = mistake(tmp_path, SOURCES + line)
    assert "write " in sentence
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize(
    "sources", ["[]", '["10.0.0.1/16"]', "[5]", '"10.0.0.0/8"', '["fd00::/8"]']
)
def test_config_when_sources_are_no_networks_then_refuses(tmp_path: Path, sources: str) -> None:
    """Host bits, numbers, bare text and IPv6 are mistakes: GWLB's outer addresses are IPv4."""
    sentence = mistake(tmp_path, f"allowed_sources = {sources}")
    assert "allowed_sources cannot be" in sentence
    assert "more to correct" not in sentence


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b"max_flows = ", "it is no TOML"),
        (b'a = "\xff"', "not UTF-8"),
        (b"a = " + b"[" * 5000, "it is no TOML"),
        (b"max_flows = " + b"9" * 5000, "it is no TOML"),
    ],
)
def test_config_when_the_file_is_no_toml_then_says_so(
    tmp_path: Path, text: bytes, part: str
) -> None:
    """No file makes a traceback."""
    assert part in mistake(tmp_path, text)


def test_config_when_the_file_cannot_be_read_then_says_why(tmp_path: Path) -> None:
    """The file's name and the system's reason are in the sentence."""
    with pytest.raises(ConfigError, match=r"none\.toml: it cannot be read: No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="it cannot be read: Is a directory"):
        load_config(tmp_path)


def test_config_when_overridden_then_the_override_wins(tmp_path: Path) -> None:
    """Options of the command line win over the file."""
    config = load(tmp_path, SOURCES + "max_flows = 7\ntcp_idle_s = 60", max_flows=9)
    assert (config.max_flows, config.tcp_idle_s) == (9, 60)


def test_config_when_all_and_one_section_have_levels_then_the_section_wins() -> None:
    """``all`` speaks for the sections that are not named."""
    levels = {"all": "debug", "udp": "critical"}
    config = build_config({"allowed_sources": ["0.0.0.0/0"], "log_levels": levels})
    assert config.log_levels["udp"] == "critical"
    assert config.log_levels["core"] == "debug"


def test_config_when_keys_are_listed_then_each_has_a_description() -> None:
    """Descriptions complete the sentences of the errors and the documentation."""
    assert all(field.description for field in Config.model_fields.values())
