"""SaEI's sampling: clean and adversarial responses in one group."""

from __future__ import annotations

from typing import Literal

from saei.samplers.mixing import Mixing


class Mixed(Mixing):
    """Some responses from the clean view, the others from views that an intervention made from them (arXiv 2512.10414).

    A group that the intervention leaves alone draws its remaining responses from the clean view: the budget is
    kept and the case is counted.
    """

    class Config(Mixing.Config):
        """The fields of every mixing sampler."""

        type: Literal["mixed"] = "mixed"

    config: Config
