"""SaEI's sampling: clean and adversarial responses in one group."""

from __future__ import annotations

from typing import Literal

from saei.samplers.arm import Arm, OneArmConfig
from saei.samplers.arm_sampler import ArmSampler


class Mixed(ArmSampler):
    """Half of the responses from the clean view, half from an adversarial one: SaEI's sampling (arXiv 2512.10414)."""

    class Config(OneArmConfig):
        """The fields of the samplers with one arm."""

        type: Literal["mixed"] = "mixed"

    config: Config

    def make_arms(self) -> tuple[Arm, ...]:
        """Return the only arm."""
        return (self.config.arm(),)
