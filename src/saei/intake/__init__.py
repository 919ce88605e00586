"""From an index to a view, or why not: one example, all of a split, a stream, a preview."""
