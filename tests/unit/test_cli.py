"""cli: the reference's command line, ours beside it, and mistakes in one sentence."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from gwlbtun.cli import main, read_command_line
from gwlbtun.errors import ConfigError

ALL_REFERENCE_OPTIONS = """
    -c create.sh -r destroy.sh -t 600 -i 400 -p 8080 -j -s -d -x
    --udpthreads 2 --udpaffinity 1-2,4,7-8 --tunthreads 2 --tunaffinity 0
    --rcvbuf 32 --busypoll 50 --reserve anything -e tc.o -I ens5
    --logging udp=debugdetail,all=important
"""
IGNORED = ["udpthreads", "udpaffinity", "tunthreads", "tunaffinity", "busypoll", "reserve"]


def test_command_line_when_empty_then_is_the_reference_default_with_a_warning() -> None:
    """The reference accepts any source; we say so once."""
    line = read_command_line([])
    assert line.config.allowed_sources == (IPv4Network("0.0.0.0/0"),)
    assert len(line.notices) == 1
    assert "--allow-source" in line.notices[0]


def test_command_line_when_it_has_all_reference_options_then_maps_them() -> None:
    """Users' unit files keep working (reference v3.2 and 4.0-dev)."""
    line = read_command_line(ALL_REFERENCE_OPTIONS.split())
    config, notices = line.config, line.notices
    assert (config.hook_create, config.hook_destroy) == (Path("create.sh"), Path("destroy.sh"))
    assert (config.endpoint_idle_s, config.tcp_idle_s, config.health_port) == (600, 400, 8080)
    assert (config.health_json, config.health_status_only, config.log_packets) == (True, True, True)
    assert config.receive_buffer_bytes == 32 << 20
    assert config.log_levels["udp"] == "debugdetail"
    assert config.log_levels["core"] == "important"
    assert config.uplinks == ("ens5",)
    for name in [*IGNORED, "ebpf"]:
        assert sum(notice.startswith(f"option --{name} has no effect") for notice in notices) == 1
    assert len(notices) == len(IGNORED) + 3  # -e, any source, -x without debug


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--cmdn", "x"], "hook_create", Path("x")),
        (["--po=80"], "health_port", 80),
        (["--p", "80"], "health_port", 80),
        (["--time", "5"], "endpoint_idle_s", 5),
        (["--id=400"], "tcp_idle_s", 400),
        (["--js"], "health_json", True),
        (["-js"], "health_status_only", True),
        (["-p80"], "health_port", 80),
        (["--max-flows", "5"], "max_flows", 5),
        (["--hook-timeout", "5"], "hook_timeout_s", 5),
        (["--provider", "tencent"], "provider", "tencent"),
    ],
)
def test_command_line_when_options_are_abbreviated_then_reads_them_like_getopt_long(
    argv: list[str], key: str, value: object
) -> None:
    """getopt_long takes any unambiguous beginning; our own options make none ambiguous."""
    assert getattr(read_command_line(argv).config, key) == value


def test_command_line_when_debug_is_on_then_all_sections_are_debug() -> None:
    """-d is --logging all=debug, and --logging may say otherwise for one section."""
    levels = read_command_line(["-d", "--logging", "udp=info"]).config.log_levels
    assert (levels["core"], levels["udp"]) == ("debug", "info")


def test_command_line_when_it_has_a_file_then_options_win_over_it(tmp_path: Path) -> None:
    """--config FILE is the base, options given beside it override it."""
    file = tmp_path / "c.toml"
    file.write_text('allowed_sources = ["10.0.0.0/8"]\nmax_flows = 7\nmax_endpoints = 9\n')
    line = read_command_line(["--config", str(file), "--max-flows", "8"])
    assert (line.config.max_flows, line.config.max_endpoints) == (8, 9)
    assert line.config.allowed_sources == (IPv4Network("10.0.0.0/8"),)
    assert line.notices == ()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--wat"], "unrecognized arguments: --wat"),
        (["extra"], "unrecognized arguments: extra"),
        (["-p"], "-p/--port: expected one argument"),
        (["-p", "http"], "-p/--port: 'http' is no whole number"),
        (["-p", "70000"], "-p/--port cannot be 70000"),
        (["-i", "5"], "-i/--idle cannot be 5"),
        (["-t", "-1"], "-t/--timeout"),
        (["--rcvbuf", "0"], "--rcvbuf cannot be 0"),
        (["--udpaffinity", "4-2"], "'4-2' is no list of processors"),
        (["--tunaffinity", "1,,2"], "'1,,2' is no list of processors"),
        (["--logging", "udp"], "'udp' is not of the form SECTION=LEVEL"),
        (["--logging", "udp=loud"], "'loud' is no level"),
        (["--logging", "nat=info"], "'nat' is no section"),
        (["-e", ""], "-e/--ebpf: the name of a file is missing"),
        (["-I", "a/b"], "-I/--ebpf-interface cannot be 'a/b': it is no interface name"),
        (["--allow-source", "10.0.0.1/8"], "--allow-source cannot be '10.0.0.1/8'"),
        (["--provider", "gcp"], "--provider cannot be 'gcp'"),
        (["--config", "/nonexistent"], "/nonexistent: it cannot be read"),
        (["name"], "required: ENDPOINT-ID"),
        (["name", "vpce-xyz"], "'vpce-xyz' is no endpoint id"),
        (["--udp", "5"], "unrecognized arguments"),
    ],
)
def test_main_when_the_caller_errs_then_one_sentence_and_status_2(
    argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No usage dump, no traceback."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gwlbtun: ")
    assert err.count("\n") == 1
    assert sentence in err


def test_main_when_asked_for_help_then_lists_every_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """-h names the reference's options, our own and the subcommands."""
    assert main(["-h"]) == 0
    out = capsys.readouterr().out
    for name in [
        *IGNORED,
        "cmdnew",
        "cmddel",
        "timeout",
        "idle",
        "port",
        "json",
        "debug",
        "rcvbuf",
    ]:
        assert f"--{name}" in out
    for name in ["check-config", "name", "lab", "--max-flows", "--allow-source", "--logging"]:
        assert name in out


@pytest.mark.parametrize(
    "text", ["vpce-0ffffffffffffffff", "ffffffffffffffff", "0FFFFFFFFFFFFFFFF"]
)
def test_name_when_given_an_endpoint_id_then_prints_interfaces_and_id(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """18446744073709551615 is uur953OEv0f in the reference's base 60."""
    assert main(["name", text]) == 0
    out = capsys.readouterr().out
    assert out == "gwi-uur953OEv0f gwo-uur953OEv0f vpce-0ffffffffffffffff\n"


def test_check_config_when_the_file_is_good_or_bad_then_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checker for ``validate:`` of a template task."""
    file = tmp_path / "c.toml"
    file.write_text('allowed_sources = ["10.0.0.0/8"]')
    assert main(["check-config", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: ok\n"
    file.write_text("max_flow = 5")
    assert main(["check-config", str(file)]) == 2
    assert "the nearest one is max_flows" in capsys.readouterr().err


def test_read_command_line_when_wrong_then_raises_config_error() -> None:
    """Whoever calls it in a program gets the same sentence as an exception."""
    with pytest.raises(ConfigError, match="unrecognized"):
        read_command_line(["--nonsense"])


def test_module_when_run_then_is_the_command() -> None:
    """``python -m gwlbtun`` is ``gwlbtun``; other commands import neither daemon nor lab."""
    code = (
        "import sys; from gwlbtun.cli import main; status = main(['name', '1']);"
        "sys.exit(status or any(m.startswith(('gwlbtun.daemon', 'gwlbtun.lab')) "
        "for m in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)
    subprocess.run(
        [sys.executable, "-m", "gwlbtun", "--version"], check=True, capture_output=True, timeout=30
    )
