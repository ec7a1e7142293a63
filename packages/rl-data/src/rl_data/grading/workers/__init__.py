"""Processes that grade what must not run in the caller's: mathematics of a model, and functions of the user."""
