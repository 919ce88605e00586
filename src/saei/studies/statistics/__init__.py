"""What the runs of a study show, as pure functions of numbers: contrasts, escapes, variance, coverage, votes."""
