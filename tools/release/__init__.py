"""Builds and checks everything that a release publishes: `python -m tools.release`."""
