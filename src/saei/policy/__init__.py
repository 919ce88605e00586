"""The wrapper of Hugging Face vision-language models: pixel and token spaces, prefixes, sampling, scoring."""

from saei.policy.policy import Policy
from saei.policy.prefix import Prefix, Scores

__all__ = ["Policy", "Prefix", "Scores"]
