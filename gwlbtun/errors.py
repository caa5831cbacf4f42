"""The exception tree: each name says who is at fault."""

from __future__ import annotations

from gwlbtun.reasons import DropReason


class GwlbtunError(Exception):
    """Anything this package raises on purpose. The message is a sentence for a person."""


class ConfigError(GwlbtunError):
    """The operator asked for something that cannot be: exit status 2."""


class KernelError(GwlbtunError):
    """The operating system refused something the appliance needs."""


class MalformedPacket(GwlbtunError):
    """Bytes from the network are not what their headers promise.

    Ordinary input, not a fault: whoever parses turns it into a counted drop.
    """

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason.label)
        self.reason = reason
