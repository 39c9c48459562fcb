"""Builds the prompt for a provider from a branch of a conversation, with pure functions.

`groups` pairs tool calls with their results, `build` selects and orders messages, `repair` adapts them to providers
that require strict alternation of roles.
"""
