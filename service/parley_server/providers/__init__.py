"""Models behind wire formats."""
