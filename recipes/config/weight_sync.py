"""How weights get from the trainer to the engines."""

from dataclasses import dataclass, field

from recipes.config.checks import require_at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSyncConfig:
    """Publishing of the weights after every rollout's steps.

    Raises:
        UsageError: if a number makes no sense.
    """

    update_weight_buffer_size: int = field(
        default=2**30,
        metadata={
            "help": "bytes of the pieces in which weights travel; two of them are allocated while weights are published"
        },
    )
    check_weight_update_equal: bool = field(
        default=False,
        metadata={"help": "every engine compares its weights with the trainer's after it has taken them"},
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "update_weight_buffer_size")
