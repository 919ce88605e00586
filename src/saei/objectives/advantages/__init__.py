"""Advantages: what the rewards of a step say about each response, or about each of its tokens."""
