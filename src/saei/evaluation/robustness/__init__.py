"""The same questions on noisy and on attacked pictures."""
