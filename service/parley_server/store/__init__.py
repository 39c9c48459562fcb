"""Conversations, messages and replies in SQL."""
