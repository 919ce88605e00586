"""Other engines: TRL's trainer, vLLM."""
