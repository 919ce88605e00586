"""The general sampler: clean responses, and those of any number of arms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from saei.config.strategy import StrategyConfig
from saei.errors import ConfigError, shown
from saei.samplers.arm import Arm, NamedArmConfig
from saei.samplers.arm_sampler import ArmSampler
from saei.samplers.base import MOST_RESPONSES
from saei.types import CLEAN

_NAME = re.compile("[a-z][a-z0-9_-]{0,40}")
_RESERVED = (CLEAN, "parts", "intervention", "untouched", "dropped", "view_kl", "replayed")
"""The clean view's origin, and what other metrics begin with: ``train/parts/accuracy`` is a part of the reward."""


class Arms(ArmSampler):
    """Some responses from the clean view, the others from any number of arms, each with an intervention of its own.

    ``mixed`` and ``noisy`` are this sampler with one arm. Here an arm's name is the origin of its views, and a guard
    drops only responses of its own arm. Source: original.
    """

    class Config(StrategyConfig):
        """Fields.

        Attributes:
            n_clean: Responses from the clean view; the criteria of the attacks are taken over these.
            arms: The arms by name, such as ``{adversarial: {n: 4}, noisy: {n: 4, intervention: {attack: noise}}}``.
        """

        type: Literal["arms"] = "arms"
        n_clean: int = Field(default=6, ge=1, le=MOST_RESPONSES)
        arms: Mapping[str, NamedArmConfig] = Field(min_length=1, max_length=16)

        @field_validator("arms")
        @classmethod
        def _go_together(cls, arms: Mapping[str, NamedArmConfig]) -> Mapping[str, NamedArmConfig]:
            for name in arms:
                if name in _RESERVED or not _NAME.fullmatch(name):
                    raise ValueError(
                        "An arm's name is the origin of its views, and its metrics begin with it: small letters, "
                        f"digits, - and _, and none of {', '.join(_RESERVED)}. Got '{shown(name)}'. Choose another."
                    )
            perturbed = [name for name, arm in arms.items() if arm.update_on == "perturbed"]
            if len(perturbed) > 1:
                raise ValueError(
                    "With update_on perturbed the clean responses are trained under an arm's view, and they have one "
                    f"such view: it is set in {', '.join(perturbed)}. Leave it in one of them."
                )
            return arms

        @classmethod
        def placed(cls, above: Mapping[str, Any], below: Mapping[str, Any]) -> Mapping[str, Any]:
            """Move the settings of ``sampler.intervention`` into the only arm.

            Raises:
                ConfigError: If there are several.
            """
            if "intervention" not in above:
                return above
            rest = {key: value for key, value in above.items() if key != "intervention"}
            names = list(dict.fromkeys(name for layer in (below, rest) for name in layer.get("arms") or {}))
            if len(names) != 1:
                raise ConfigError(
                    "--attack, --selector and whatever else is said of one intervention reach a sampler with one arm.",
                    reason=f"'arms' has {', '.join(names) or 'none'}.",
                    remedy="Set each: "
                    + ", ".join(f"--set sampler.arms.{name}.intervention.attack.type=…" for name in names or ["NAME"]),
                )
            (name,) = names
            arms = dict(rest.get("arms") or {})
            arms[name] = {**arms.get(name, {}), "intervention": above["intervention"]}
            return {**rest, "arms": arms}

    config: Config

    def make_arms(self) -> tuple[Arm, ...]:
        """Return the arms by their names."""
        return tuple(config.arm(name) for name, config in self.config.arms.items())
