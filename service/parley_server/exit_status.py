"""Exit statuses of the commands and of worker processes."""

CANNOT_RUN = 2
"""The configuration, or the state of the machine or the database, forbids it. The error message has the cause."""
