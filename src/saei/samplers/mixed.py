"""SaEI's sampling: clean and adversarial responses in one group."""

from __future__ import annotations

from typing import Literal

from saei.samplers.mixing import Mixing


class Mixed(Mixing):
    """Half of the responses from the clean view, half from an adversarial one: SaEI's sampling (arXiv 2512.10414)."""

    class Config(Mixing.Config):
        """The fields of every mixing sampler."""

        type: Literal["mixed"] = "mixed"

    config: Config
