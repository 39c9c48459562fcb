"""Parley's server: one engine for the chat replies of all backends of a company."""

__version__ = "0.1.0"
