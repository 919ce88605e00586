"""Statistics: what can be known about the tokens of responses, and the one place where it is computed."""
