"""Tasks: where examples come from, and how they are asked."""
