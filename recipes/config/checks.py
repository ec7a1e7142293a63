"""Checks that the recipes' dataclasses share."""

from pathlib import Path

from recipes.arguments.dataclass_flags import by_flag
from recipes.errors import UsageError
from rl_train.errors import TrainConfigError
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.config import MegatronTrainerConfig


def flag_of(field: str) -> str:
    """The flag that fills a field."""
    return "--" + field.replace("_", "-")


def check_recompute(config: MegatronTrainerConfig, megatron: MegatronArguments) -> None:
    """Checks that not both our policy and Megatron's flags decide what is computed again.

    Raises:
        UsageError: naming the flags.
    """
    try:
        megatron.check_recompute_policy(config.recompute_policy)
    except TrainConfigError as error:
        raise UsageError(by_flag(MegatronTrainerConfig, str(error))) from None


def require_at_least(config: object, least: float, *fields: str) -> None:
    """Checks that number fields are None or at least `least`.

    Raises:
        UsageError: naming the flag.
    """
    for field in fields:
        value: float | None = getattr(config, field)
        if value is not None and not value >= least:
            raise UsageError(f"{flag_of(field)} {value}: expected at least {least}")


def require_above_zero(config: object, *fields: str) -> None:
    """Checks that number fields are None or above 0.

    Raises:
        UsageError: naming the flag.
    """
    for field in fields:
        value: float | None = getattr(config, field)
        if value is not None and not value > 0:
            raise UsageError(f"{flag_of(field)} {value}: expected a number above 0")


def require_folder(flag: str, path: Path | None) -> None:
    """Checks that a path that is read is None or a folder.

    Raises:
        UsageError: naming the flag.
    """
    if path is not None and not path.is_dir():
        raise UsageError(f"{flag} {path}: there is no such folder")
