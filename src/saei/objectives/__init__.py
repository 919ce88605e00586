"""Policy losses, their terms and the advantages: pure tensor functions that never see a model."""
