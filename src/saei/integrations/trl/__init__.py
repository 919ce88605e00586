"""SaEI inside TRL's trainer; the only place that imports trl."""
