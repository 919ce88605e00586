"""Diagnostics: whether a model works with the library, and what it costs on this machine."""
