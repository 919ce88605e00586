"""NoisyRollout's sampling: clean and noisy responses in one group."""

from __future__ import annotations

from typing import Literal

from saei.interventions import InterventionConfig
from saei.samplers.arm import Arm, OneArmConfig
from saei.samplers.arm_sampler import ArmSampler
from saei.samplers.base import UpdateOn


class Noisy(ArmSampler):
    """Half of the responses from a noisy image, all trained under the clean one: NoisyRollout (arXiv 2504.13055).

    It is ``mixed`` with other defaults: the attack ``diffusion-noise``, whose strength falls as ``sigmoid``. The
    selector and the criterion have no effect, since noise uses neither. NoisyRollout's loss also has an entropy bonus
    of 1e-3: ``objective.terms=[entropy-bonus]``.
    """

    class Config(OneArmConfig):
        """The fields of the samplers with one arm."""

        type: Literal["noisy"] = "noisy"
        intervention: InterventionConfig = InterventionConfig.model_validate(
            {"attack": "diffusion-noise", "strength": "sigmoid"}
        )
        update_on: UpdateOn = "clean"

    config: Config

    def make_arms(self) -> tuple[Arm, ...]:
        """Return the only arm."""
        return (self.config.arm(),)
