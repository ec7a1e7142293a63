"""Hands the weights of a trainer to inference engines."""
