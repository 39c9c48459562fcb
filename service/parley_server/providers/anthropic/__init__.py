"""Anthropic's Messages API: Anthropic, and compatible servers."""
