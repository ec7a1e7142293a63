"""Errors of a user's making that belong to no library."""


class UsageError(ValueError):
    """A flag, a file or a folder that the user can mend: what was got, what was expected, where."""
