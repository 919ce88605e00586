"""Advantages: from the rewards of a step to a number for each response, or for each of its tokens."""
