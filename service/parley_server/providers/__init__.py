"""Providers: model vendors behind their wire formats, and the policies around them."""
