"""The final evaluation of a study's runs: what the trained policy can still do, beside its training metrics."""
