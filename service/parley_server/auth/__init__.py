"""Identifies callers. The only package that imports a JWT library."""
