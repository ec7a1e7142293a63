"""The commands of `rl-data`, one a file: `add_parser` says what it takes, `run` does it."""
