"""Diagnostics: what the library makes of a model, and what the model costs on this machine."""
