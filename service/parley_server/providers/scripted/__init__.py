"""A provider that plays scripts, for demonstrations and tests."""
