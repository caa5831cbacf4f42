"""The command line of the lab: ``gwlbtun lab up | status | down | shell | pcap | …``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from gwlbtun.errors import ConfigError, GwlbtunError, KernelError
from gwlbtun.lab import demo
from gwlbtun.lab.instance import Lab, default_appliance
from gwlbtun.lab.plan import CLIENT_ADDRESSES, DEFAULT_NAME, DEVICE, SERVER_ADDRESSES, LabPlan
from gwlbtun.lab.settings import GwlbSettings
from gwlbtun.lab.table import format_table

_INTERRUPTED: Final = 130
_Subparsers = Any
"""argparse keeps this type to itself."""


def add_lab_parser(subparsers: _Subparsers) -> None:
    """Add ``lab`` to the ``gwlbtun`` command; run_lab runs what it parsed."""
    summary = "build and drive a Gateway Load Balancer in network namespaces of this machine"
    parser = subparsers.add_parser("lab", help=summary, description=summary)
    fill_lab_parser(parser)


def fill_lab_parser(parser: argparse.ArgumentParser) -> None:
    """All commands of the lab."""
    commands = parser.add_subparsers(dest="lab_command", metavar="COMMAND", required=True)
    _add_up(commands)
    status = _add(commands, "status", "show flows, targets, traffic and what was dropped", _status)
    status.add_argument("--json", action="store_true", help="everything, as JSON")
    _add(commands, "down", "stop and remove everything; harmless when there is no lab", _down)
    shell = _add(commands, "shell", "run a shell or a command in a namespace", _shell)
    shell.add_argument("role", help="client, server, appliance (number 1), client-2, …, gwlb")
    shell.add_argument("command", nargs=argparse.REMAINDER, help="-- and a command")
    _add_pcap(commands)
    for name, summary in (
        ("deregister", "send an appliance no new flows"),
        ("register", "take an appliance back"),
    ):
        change = _add(commands, name, summary, _change_target)
        change.add_argument("target", help="the number of an appliance, or appliance-N")
    settings = _add(commands, "set", "change settings of the GWLB while it runs", _set)
    fields = ", ".join(GwlbSettings.model_fields)
    settings.add_argument("changes", nargs="+", metavar="NAME=VALUE", help=f"names: {fields}")
    demo_parser = _add(commands, "demo", "send real traffic through it all and judge it", _demo)
    demo_parser.set_defaults(name="gwlbdemo")


def run_lab(args: argparse.Namespace) -> int:
    """Run a parsed command: exit status 0, 1 when it failed, 2 when it cannot be."""
    run: Callable[[argparse.Namespace], int] = args.run_lab_command
    try:
        if os.geteuid():
            raise KernelError("gwlbtun lab builds network namespaces: run it as root")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that both clean up
        return run(args)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except GwlbtunError as error:
        print(f"gwlbtun lab: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def _add(
    commands: _Subparsers, name: str, summary: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("--name", default=DEFAULT_NAME, help="which lab (default %(default)s)")
    parser.set_defaults(run_lab_command=run)
    return parser


def _add_up(commands: _Subparsers) -> None:
    up = _add(commands, "up", "build a lab and start it", _up)
    for what, number in (("endpoints", 2), ("appliances", 1), ("nodes", 2)):
        up.add_argument(f"--{what}", type=int, default=number, metavar="N")
    up.add_argument("--stickiness", type=int, choices=(5, 3, 2), default=5)
    which = up.add_mutually_exclusive_group()
    which.add_argument("--no-daemon", action="store_true", help="leave the appliances empty")
    which.add_argument(
        "--appliance-command", metavar="CMD", help="run this in each appliance, not gwlbtun"
    )


def _add_pcap(commands: _Subparsers) -> None:
    pcap = _add(commands, "pcap", "capture packets with tcpdump", _pcap)
    pcap.add_argument("leg", help="client-N, server-N, or geneve-N on the way to appliance N")
    pcap.add_argument("-w", dest="file", help="write packets to a file")
    pcap.add_argument("-c", dest="count", type=int, help="stop after so many packets")


def _up(args: argparse.Namespace) -> int:
    settings = GwlbSettings(stickiness=args.stickiness)
    plan = LabPlan(args.name, args.endpoints, args.appliances, args.nodes, settings)
    command = shlex.split(args.appliance_command or "") or default_appliance()
    lab = Lab(plan, [] if args.no_daemon else command)
    lab.up()
    name = "" if args.name == DEFAULT_NAME else f" --name {args.name}"
    print(_HOW_TO.format(name=name, server=SERVER_ADDRESSES[0]))
    if args.no_daemon:
        print(f"The appliances are empty: gwlbtun lab shell{name} appliance-1 -- YOUR-APPLIANCE")
    return 0


_HOW_TO: Final = """\
The lab is up. Try:
  gwlbtun lab shell{name} client -- ping -c 3 {server}
  gwlbtun lab shell{name} server          (then start a server of yours)
  gwlbtun lab shell{name} appliance -- iptables -nvL
  gwlbtun lab pcap{name} geneve-1
  gwlbtun lab status{name}
  gwlbtun lab down{name}"""


def _down(args: argparse.Namespace) -> int:
    try:
        lab = Lab.find(args.name)
    except ConfigError:
        print(f"There is no lab {args.name!r}.")
        return 0
    lab.down()
    return 0


def _shell(args: argparse.Namespace) -> int:
    command = [word for i, word in enumerate(args.command) if i or word != "--"]
    _exec(Lab.find(args.name).command(args.role, command or [os.environ.get("SHELL", "/bin/sh")]))
    return 0


def _pcap(args: argparse.Namespace) -> int:
    if not shutil.which("tcpdump"):
        raise KernelError("tcpdump is not installed: install the package tcpdump")
    lab = Lab.find(args.name)
    side, _, number = args.leg.partition("-")
    what: list[str] = []
    if side == "geneve":
        lab.plan.namespace(f"appliance-{number}")  # so that a wrong number is named as such
        role, device, what = "gwlb", f"target-{number or 1}", ["udp"]  # no health checks
    else:
        role, device = args.leg, DEVICE
    command = ["tcpdump", "-n", "-U", "-i", device]
    command += ["-w", args.file] if args.file else []
    command += ["-c", str(args.count)] if args.count else []
    _exec(lab.command(role, command + what))
    return 0


def _exec(command: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606 - the terminal goes to the command


def _change_target(args: argparse.Namespace) -> int:
    number = args.target.removeprefix("appliance-")
    if not number.isdecimal():
        raise ConfigError(f"{args.target!r} is no appliance: write its number")
    lab = Lab.find(args.name)
    change = lab.deregister if args.lab_command == "deregister" else lab.register
    print(f"appliance-{number} is {change(int(number))['state']}")
    return 0


def _set(args: argparse.Namespace) -> int:
    changes = dict(_parse_change(text) for text in args.changes)
    settings = Lab.find(args.name).change_settings(**changes)
    print(format_table(("setting", "value"), [(k, str(v)) for k, v in settings.items()]))
    return 0


def _parse_change(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is no setting: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _status(args: argparse.Namespace) -> int:
    status = Lab.find(args.name).status()
    print(json.dumps(status, indent=2) if args.json else _describe(status))
    return 0


def _describe(status: dict[str, Any]) -> str:
    flows = status["flows_by_target"]
    targets = [
        (f"appliance-{t['number']}", t["address"], t["state"], str(flows[str(t["number"])]))
        for t in status["targets"]
    ]
    traffic = [
        (str(e["number"]), e["id"], side, str(e[side]["packets"]), str(e[side]["bytes"]))
        for e in status["endpoints"]
        for side in ("to_server", "to_client")
    ]
    counted = {**status["metrics"], **status["drops"], **status["io_errors"]}
    sides = f"Inner addresses: client {', '.join(CLIENT_ADDRESSES)}; "
    return "\n\n".join(
        (
            sides + f"server {', '.join(SERVER_ADDRESSES)}",
            format_table(("target", "address", "state", "flows"), targets),
            format_table(("endpoint", "id", "direction", "packets", "bytes"), traffic),
            format_table(("counter", "value"), [(k, str(v)) for k, v in counted.items()]),
            *status["recent_violations"],
        )
    )


def _demo(args: argparse.Namespace) -> int:
    return demo.run_demo(args.name)
