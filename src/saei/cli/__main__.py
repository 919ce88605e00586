"""``python -m saei.cli``."""

from saei.cli import main

main()
