"""One program per number that the project claims. Run as `python -m bench.NAME` from the repository's root."""
