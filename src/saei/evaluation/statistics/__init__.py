"""Scores, intervals and comparisons of answers."""
