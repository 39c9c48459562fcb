"""A provider that plays scripts, for demos and tests."""
