"""Rewards: from a response to a grade."""
