"""What a recipe's main does with a user's mistake: one clear message and exit code 2."""

import sys
from collections.abc import Generator
from contextlib import contextmanager

from recipes.errors import UsageError

EXIT_CODE = 2

# The packages' errors that mean a mistake of the user, by module. A package that was not imported raised nothing.
_USER_ERRORS = {
    "rl_data.errors": "DataError",
    "rl_weights.errors": "CheckpointError",
    "rl_rollout.errors": "RolloutConfigError",
    "rl_train.errors": "TrainConfigError",
}


@contextmanager
def exit_on_usage_error(program: str) -> Generator[None]:
    """Turns UsageError and the packages' own into a message on stderr and SystemExit(2); others pass through.

    Example:
        >>> with exit_on_usage_error("python -m recipes.grpo"):
        ...     main(sys.argv[1:])
    """
    try:
        yield
    except ValueError as error:
        if not is_usage_error(error):
            raise
        sys.stderr.write(f"{program}: {error}\n")
        raise SystemExit(EXIT_CODE) from None


def is_usage_error(error: BaseException) -> bool:
    """Whether the user can mend it."""
    kinds = [UsageError]
    kinds += [vars(sys.modules[name])[kind] for name, kind in _USER_ERRORS.items() if name in sys.modules]
    return isinstance(error, tuple(kinds))
