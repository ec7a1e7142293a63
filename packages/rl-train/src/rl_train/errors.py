"""Errors of rl-train. Every one can be pickled, so that it crosses process borders whole."""


class RLTrainError(Exception):
    """Base of every error that rl-train raises on purpose."""


class TrainConfigError(RLTrainError, ValueError):
    """A flag or setting that the user can mend; the message says what was got and what was expected."""


class HostMemoryError(TrainConfigError):
    """Host memory that is too small for what should move there; the message says how much is needed."""


class MemoryReleasedError(RLTrainError):
    """A call that needs memory which was given up; the trainer is whole, and `resume_memory` comes first."""


class TrainerError(RLTrainError, RuntimeError):
    """A trainer rank that failed; the message names the rank and holds its traceback."""


class TrainerDeadlineError(TrainerError, TimeoutError):
    """A trainer rank that did not answer in time; the message says which and what it was doing."""
