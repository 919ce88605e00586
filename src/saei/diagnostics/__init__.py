"""Diagnostics: what the library makes of a model."""
