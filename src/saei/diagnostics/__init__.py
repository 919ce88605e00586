"""What a model costs on this machine."""
