"""Token entropy and the selectors over it."""
