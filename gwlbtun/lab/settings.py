"""What can be set on a Gateway Load Balancer, under the lab's names and with AWS's defaults.

Source: docs.aws.amazon.com, Gateway Load Balancers: "Edit target group attributes", "Health
checks", "Idle timeout". AWS allows 60-6000 s of TCP idle time and at least 5 s between health
checks; the lab also takes less, so that a test need not wait.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class GwlbSettings(BaseModel):
    """Checked as a whole, then immutable; ``changed`` makes the next one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stickiness: Literal[5, 3, 2] = 5
    """Which fields of a flow choose its target: 5-tuple, addresses and protocol, addresses."""
    tcp_idle_s: float = Field(350, gt=0, le=6000)
    other_idle_s: float = Field(120, gt=0, le=6000)
    rebalance: bool = False
    """Whether existing flows leave an unhealthy or deregistered target for a healthy one."""
    deregistration_delay_s: float = Field(300, ge=0, le=3600)
    health_path: str = "/"
    health_port: int = Field(80, ge=1, le=65535)
    health_interval_s: float = Field(1, gt=0, le=300)
    health_timeout_s: float = Field(2, gt=0, le=120)
    healthy_threshold: int = Field(2, ge=1, le=10)
    unhealthy_threshold: int = Field(2, ge=1, le=10)

    def changed(self, changes: dict[str, object]) -> GwlbSettings:
        """The settings with some of them replaced. Raises pydantic's ValidationError."""
        return GwlbSettings.model_validate({**self.model_dump(), **changes})
