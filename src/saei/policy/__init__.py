"""The wrapper of Hugging Face vision-language models: pixel and token spaces, sampling, scoring."""

from saei.policy.policy import Policy
from saei.policy.scoring import Scores

__all__ = ["Policy", "Scores"]
