"""Errors of rl-data. Every one can be pickled, so that it crosses process borders whole."""


class RLDataError(Exception):
    """Base of every error that rl-data raises on purpose."""


class DataError(RLDataError, ValueError):
    """A row, a file or a setting that the user can mend; the message says where and what was expected."""


class SchemaVersionError(RLDataError, ValueError):
    """Bytes that were written under another schema version than this release reads."""
