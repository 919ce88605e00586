"""Attacks: moving a point inside a ball to change a criterion; no attack ever sees a model."""
