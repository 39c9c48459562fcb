"""Replies: acceptance, generation, the log and its readers, the end."""
