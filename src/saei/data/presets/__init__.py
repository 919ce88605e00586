"""Data sets of the field, each with the columns that it has: a row becomes an example in one small function."""
