"""The chat completions API of OpenAI and of compatible servers."""
