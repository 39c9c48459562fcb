"""Wrappers that add a rule to any provider."""
