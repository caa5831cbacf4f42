"""The ``gwlbtun`` command: the daemon with the reference's options, and a few subcommands.

The options are those of aws-gateway-load-balancer-tunnel-handler, so that its users' unit files
and scripts keep working, plus our own. What makes no sense here is accepted, checked, and noted in
the log when the daemon starts. A mistake is one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from gwlbtun import __version__
from gwlbtun.config import Config, build_config, complete_levels, load_config
from gwlbtun.errors import ConfigError, GwlbtunError
from gwlbtun.wire.gwlb import (
    PROFILES,
    endpoint_id_to_hex,
    endpoint_interfaces,
    parse_endpoint_id,
)

_DESCRIPTION: Final = """\
Tunnel handler for AWS Gateway Load Balancer: traffic of every endpoint appears on gwi-<X>,
what the system sends to gwo-<X> (or gwi-<X>) goes back to the load balancer."""
_COMMANDS_HELP: Final = """\
other commands (each has -h):
  gwlbtun name ENDPOINT-ID    print the names of an endpoint's interfaces, and its id
  gwlbtun check-config FILE   check a configuration file
  gwlbtun teardown            remove what a daemon with --keep has left
  gwlbtun lab ...             a load balancer to test against"""

_LIST: Final = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*")
_MEBIBYTE: Final = 1 << 20

_NO_EFFECT: Final = {
    "--udpthreads": "one thread carries what the kernel path does not",
    "--udpaffinity": "use CPUAffinity= of the service's unit",
    "--tunthreads": "one thread carries what the kernel path does not",
    "--tunaffinity": "use CPUAffinity= of the service's unit",
    "--busypoll": "packets are read in batches, which busy polling would not speed up",
    "--reserve": "memory is taken as flows come, up to --max-flows",
    "--ebpf": "the kernel path is part of the package; --datapath chooses",
}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the daemon's command line says; notices are for the log."""

    config: Config
    notices: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 for a fault here, 2 for one of the caller."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = _COMMANDS.get(arguments[0]) if arguments else None
    try:
        return command(arguments) if command else _run_daemon(arguments)
    except GwlbtunError as error:
        print(f"gwlbtun: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except SystemExit as done:  # argparse has printed help or the version
        return int(done.code or 0)


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """The daemon's configuration from its command line. Raises ConfigError."""
    parser = _daemon_parser()
    options = vars(parser.parse_args(_expand_abbreviations(argv)))
    file = options.pop("config", None)
    notices = [
        f"option {name} has no effect: {why}"
        for name, why in _NO_EFFECT.items()
        if options.pop(name, None) is not None
    ]
    levels = {**options.pop("debug", {}), **options.pop("log_levels", {})}
    if levels:
        options["log_levels"] = levels
    names = {a.dest: "/".join(a.option_strings) for a in parser._actions}  # noqa: SLF001
    if file is None:
        if "allowed_sources" not in options:
            options["allowed_sources"] = ["0.0.0.0/0"]
            notices.append(
                "packets of any source address are accepted; "
                "name the load balancer's networks with --allow-source"
            )
        config = build_config(options, names)
    else:
        config = load_config(file, options, names)
    if config.log_packets and not config.log_levels["tunnel"].startswith("debug"):
        notices.append("packets are logged only with --logging tunnel=debug")
    return CommandLine(config, tuple(notices))


def _run_daemon(argv: Sequence[str]) -> int:
    line = read_command_line(argv)
    from gwlbtun.daemon import run_daemon  # noqa: PLC0415 - other commands start without it

    return run_daemon(line.config, line.notices)


def _run_name(argv: Sequence[str]) -> int:
    parser = _subcommand_parser("name", "Print an endpoint's two interfaces and its id.")
    parser.add_argument("endpoint", metavar="ENDPOINT-ID", help="vpce-0123456789abcdef0, or hex")
    endpoint_id = parse_endpoint_id(parser.parse_args(argv[1:]).endpoint)
    print(*endpoint_interfaces(endpoint_id), f"vpce-{endpoint_id_to_hex(endpoint_id)}")
    return 0


def _run_check_config(argv: Sequence[str]) -> int:
    parser = _subcommand_parser("check-config", "Check a configuration file.")
    parser.add_argument("file", metavar="FILE")
    file = parser.parse_args(argv[1:]).file
    load_config(file)
    print(f"{file}: ok")
    return 0


def _run_teardown(argv: Sequence[str]) -> int:
    parser = _subcommand_parser(
        "teardown", "Remove everything that a daemon which ran with --keep has left here."
    )
    parser.add_argument(
        "-r", "--cmddel", metavar="FILE", type=Path, help="run before each endpoint goes"
    )
    destroy = parser.parse_args(argv[1:]).cmddel
    from gwlbtun.control import leftovers, log  # noqa: PLC0415 - other commands start without them

    state = log.configure({}, sys.stderr)
    try:
        found = leftovers.tear_down(destroy, log.get_logger("core"))
    finally:
        state.close()
    print(f"removed: {', '.join(found)}" if found else "there was nothing to remove")
    return 0


def _run_lab(argv: Sequence[str]) -> int:
    from gwlbtun.lab.cli import add_lab_parser, run_lab  # noqa: PLC0415 - the daemon needs no lab

    parser = _Parser(prog="gwlbtun")
    add_lab_parser(parser.add_subparsers(dest="command", required=True))
    return run_lab(parser.parse_args(argv))


_COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = {
    "name": _run_name,
    "check-config": _run_check_config,
    "teardown": _run_teardown,
    "lab": _run_lab,
}


class _Parser(argparse.ArgumentParser):
    """argparse without its usage dump: a mistake is a ConfigError."""

    def error(self, message: str) -> NoReturn:
        what = message.removeprefix("argument ")
        raise ConfigError(f"{what}; {self.prog} -h shows what there is")


def _subcommand_parser(name: str, description: str) -> _Parser:
    return _Parser(prog=f"gwlbtun {name}", description=description, allow_abbrev=False)


def _daemon_parser() -> _Parser:
    """Every ``dest`` is a key of Config, or of _NO_EFFECT; what was not given is absent."""
    parser = _Parser(
        prog="gwlbtun",
        usage="gwlbtun [OPTION ...]\n       gwlbtun {name,check-config,teardown,lab} ...",
        description=_DESCRIPTION,
        epilog=_COMMANDS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,  # see _expand_abbreviations
        add_help=False,
    )
    general = parser.add_argument_group("general")
    general.add_argument("-h", "--help", action="help", help="show this and exit")
    general.add_argument("--version", action="version", version=f"gwlbtun {__version__}")
    general.add_argument(
        "--config", metavar="FILE", help="TOML file; options given here win over it"
    )
    _add_traffic_options(parser.add_argument_group("traffic"))
    _add_control_options(parser.add_argument_group("hooks, health, log"))
    _add_reference_options(parser.add_argument_group("accepted for compatibility, no effect"))
    return parser


def _add_traffic_options(group: argparse._ArgumentGroup) -> None:
    _add(group, "--provider", "provider", str, "NAME", f"{' or '.join(PROFILES)}, default aws")
    _add(group, "--datapath", "datapath", str, "WHICH", "auto, ebpf or user, default auto")
    for names, dest, metavar, text in (
        ("-I/--ebpf-interface", "uplinks", "IFNAME", "uplink of the kernel path (repeatable)"),
        (
            "--hairpin",
            "hairpin_endpoints",
            "ENDPOINT-ID",
            "return its packets at once (repeatable)",
        ),
    ):
        group.add_argument(
            *names.split("/"), dest=dest, action="append", metavar=metavar, help=text
        )
    group.add_argument(
        "--xdp",
        dest="hairpin_xdp",
        action="store_const",
        const=True,
        help="return them at the driver, if it allows",
    )
    group.add_argument(
        "--allow-source",
        dest="allowed_sources",
        action="append",
        metavar="CIDR",
        help="network of the load balancer's addresses (repeatable); default: all, with a warning",
    )
    _add(group, "-t/--timeout", "endpoint_idle_s", _whole, "SECONDS", "idle endpoint; 0 = never")
    _add(group, "-i/--idle", "tcp_idle_s", _whole, "SECONDS", "idle TCP flow, default 350")
    _add(group, "--max-flows", "max_flows", _whole, "N", "flows of all endpoints, default 1000000")
    _add(group, "--max-endpoints", "max_endpoints", _whole, "N", "endpoints, default 128")
    _add(group, "--rcvbuf", "receive_buffer_bytes", _mebibytes, "MB", "UDP receive buffer, 16")


def _add_control_options(group: argparse._ArgumentGroup) -> None:
    _add(group, "-c/--cmdnew", "hook_create", str, "FILE", "run when an endpoint has come")
    _add(group, "-r/--cmddel", "hook_destroy", str, "FILE", "run before an endpoint goes")
    _add(group, "--hook-timeout", "hook_timeout_s", _whole, "SECONDS", "per hook run, default 30")
    _add(group, "-p/--port", "health_port", _whole, "PORT", "answer HTTP health checks here")
    flags = (
        ("-j/--json", "health_json", True, "health answers in JSON"),
        ("-s", "health_status_only", True, "health answers without a body"),
        ("--keep", "keep", True, "leave all in place at the end, for the next daemon to take over"),
        ("-d/--debug", "debug", {"all": "debug"}, "the same as --logging all=debug"),
        ("-x", "log_packets", True, "hex dump of packets, in the debug log of tunnel"),
    )
    for names, dest, value, text in flags:
        group.add_argument(
            *names.split("/"), dest=dest, action="store_const", const=value, help=text
        )
    _add(
        group,
        "--logging",
        "log_levels",
        _levels,
        "SECTION=LEVEL,...",
        "sections core udp geneve tunnel healthcheck all; "
        "levels critical important info debug debugdetail",
    )


def _add_reference_options(group: argparse._ArgumentGroup) -> None:
    for name, read, metavar in (
        ("--udpthreads", _whole, "N"),
        ("--udpaffinity", _cpu_list, "LIST"),
        ("--tunthreads", _whole, "N"),
        ("--tunaffinity", _cpu_list, "LIST"),
        ("--busypoll", _whole, "USEC"),
        ("--reserve", str, "..."),
        ("-e/--ebpf", _object_file, "OBJFILE"),
    ):
        _add(group, name, name.split("/")[-1], read, metavar, None)


def _add(
    group: argparse._ArgumentGroup,
    names: str,
    dest: str,
    read: Callable[[str], Any],
    metavar: str,
    text: str | None,
) -> None:
    group.add_argument(*names.split("/"), dest=dest, type=read, metavar=metavar, help=text)


_REFERENCE_LONG: Final = (
    *("help", "cmdnew", "cmddel", "timeout", "idle", "port", "json", "debug", "udpthreads"),
    *("udpaffinity", "tunthreads", "tunaffinity", "rcvbuf", "busypoll", "reserve", "ebpf"),
    *("ebpf-interface", "logging"),
)


def _expand_abbreviations(argv: Sequence[str]) -> list[str]:
    """Write abbreviated options out. getopt_long, which the reference uses, takes any unambiguous
    beginning of a long option, so scripts may have them. argparse could do it as well, but would
    count our own options in: ``--po`` stays ``--port`` whatever we add.
    """
    expanded = []
    for argument in argv:
        name, equals, value = argument.removeprefix("--").partition("=")
        found = [known for known in _REFERENCE_LONG if known.startswith(name)]
        is_long = argument.startswith("--") and name
        if is_long and len(found) == 1:
            expanded.append(f"--{found[0]}{equals}{value}")
        else:
            expanded.append(argument)
    return expanded


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _mebibytes(text: str) -> int:
    return _whole(text) * _MEBIBYTE


def _cpu_list(text: str) -> str:
    parts = [part.partition("-") for part in text.split(",")]
    if not _LIST.fullmatch(text) or any(dash and int(a) > int(b) for a, dash, b in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of processors such as 1-2,4,7-8")
    return text


def _object_file(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is missing")
    return text


def _levels(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(equals for _, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form SECTION=LEVEL,...")
    levels = {section: level for section, _, level in pairs}
    try:
        complete_levels(levels)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return levels
