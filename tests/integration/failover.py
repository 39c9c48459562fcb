"""Models with a fallback: `near` (which falls back to `far`), `alone` (the same without a fallback) and `far`.

Their provider is `near` or `far`. Format it with their URLs, and with further `rules` of the provider `near`."""

MODELS = """
[providers.near]
kind = "openai"
base_url = "{near}"
api_key = "env:UPSTREAM_KEY"
{rules}
[providers.far]
kind = "openai"
base_url = "{far}"
api_key = "env:UPSTREAM_KEY"
[models.near]
provider = "near"
name = "vendor/near-1"
fallback = ["far"]
reasoning = false
prices = {{ prompt = 2.0, completion = 8.0 }}
[models.alone]
provider = "near"
name = "vendor/near-1"
reasoning = false
[models.far]
provider = "far"
name = "vendor/far-1"
reasoning = false
prices = {{ prompt = 20.0, completion = 80.0 }}
"""
