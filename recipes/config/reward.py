"""How responses are graded."""

from dataclasses import dataclass, field
from typing import Literal

from recipes.config.checks import require_above_zero, require_at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """Grading of responses.

    Raises:
        UsageError: if a number makes no sense.
    """

    rm_type: Literal["boxed", "dapo", "deepscaler", "gsm8k", "math"] = field(
        default="deepscaler", metadata={"help": "grader, which compares the response's answer with the row's label"}
    )
    rm_num_workers: int = field(default=2, metadata={"help": "processes that compare answers symbolically"})
    rm_timeout_s: float = field(
        default=10.0, metadata={"help": "seconds that a comparison may take before its process is ended"}
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rm_num_workers")
        require_above_zero(self, "rm_timeout_s")
