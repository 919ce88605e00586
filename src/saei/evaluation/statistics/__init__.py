"""Scores, intervals and comparisons of what was answered."""
