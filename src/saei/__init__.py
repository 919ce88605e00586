"""saei: keep vision-language policies exploring while they learn by reinforcement."""

__version__ = "0.1.0"
