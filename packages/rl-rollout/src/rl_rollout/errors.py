"""Errors of rl-rollout. Every one can be pickled, so that it crosses process borders whole."""


class RLRolloutError(Exception):
    """Base of every error that rl-rollout raises on purpose."""


class EngineError(RLRolloutError, RuntimeError):
    """An engine that failed to start, to answer or to take weights; the message names the engine."""


class EngineDeadlineError(EngineError, TimeoutError):
    """An engine that did not answer in time; the message says what it was doing."""


class EngineNotServingError(EngineError):
    """An engine that lives but holds no whole set of weights, as during an update."""


class RolloutConfigError(RLRolloutError, ValueError):
    """A setting that the user can mend."""


class RequestError(RLRolloutError, ValueError):
    """A request that a healthy engine cannot serve, such as a prompt longer than the context; the message says why."""


class RolloutStarvedError(RLRolloutError, RuntimeError):
    """A rollout whose filter dropped group after group; the message says how many and why."""
