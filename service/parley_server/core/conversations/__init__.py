"""Stored conversations and their messages."""
