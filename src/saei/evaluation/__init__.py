"""Measuring a policy: sampled accuracy and the collapse probe."""
