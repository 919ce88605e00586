"""Graders: whether a final answer is the gold answer, by the type of answer that the example asks for."""
