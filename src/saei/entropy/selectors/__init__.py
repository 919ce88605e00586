"""Which tokens of a group count."""
