"""Samplers: how many responses from which views."""
