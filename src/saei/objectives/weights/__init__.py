"""Weights: how much each token counts in the policy loss."""
