"""Names and YAML to frozen settings: strategies, the registry, a run's sections, overrides, errors."""
