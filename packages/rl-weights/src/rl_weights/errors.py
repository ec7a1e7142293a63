"""Errors of rl-weights. Every one can be pickled, so that it crosses process borders whole."""


class RLWeightsError(Exception):
    """Base of every error that rl-weights raises on purpose."""


class CheckpointError(RLWeightsError, ValueError):
    """A checkpoint that is missing, incomplete, damaged or of an architecture that no rule covers."""


class SyncError(RLWeightsError, RuntimeError):
    """A publish that a source or a sink did not complete."""
