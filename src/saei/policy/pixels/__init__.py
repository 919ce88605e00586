"""Pixels with a gradient: the space that attacks move in, and the way from it to what the processor makes."""
