"""From a conversation's branch to the prompt that a provider gets: pure steps, in the order of the module names below.

`groups` pairs tool calls with their results, `build` selects and orders the messages, `repair` makes them fit dialects
that demand strict turns.
"""
