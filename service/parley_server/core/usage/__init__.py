"""Sums of what replies have used."""
