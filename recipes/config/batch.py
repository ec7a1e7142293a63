"""How samples become optimizer steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from recipes.config.checks import require_at_least
from recipes.errors import UsageError
from rl_data.balance import attention_length_of
from rl_data.json import JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Size of an optimizer step and of its micro-batches.

    Raises:
        UsageError: if a number makes no sense.
    """

    global_batch_size: int = field(metadata={"help": "samples of an optimizer step, over all ranks"})
    max_tokens_per_gpu: int = field(default=8192, metadata={"help": "tokens of a micro-batch at most"})
    balance_by_flops: bool = field(
        default=False,
        metadata={"help": "balance operations over the data-parallel ranks, attention counted, instead of tokens"},
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "global_batch_size", "max_tokens_per_gpu")

    def attention_length(self, model_config: Mapping[str, JsonValue]) -> float | None:
        """What `rl_data.pack` takes under that name, for a model with this config.json."""
        return attention_length_of(model_config) if self.balance_by_flops else None

    def check_divides(self, *, num_data_parallel_ranks: int) -> None:
        """Checks that a step gives every data-parallel rank the same number of samples.

        Raises:
            UsageError: if it does not.
        """
        if self.global_batch_size % num_data_parallel_ranks:
            raise UsageError(
                f"--global-batch-size {self.global_batch_size}: it does not divide over "
                f"{num_data_parallel_ranks} data-parallel ranks"
            )

    def num_steps_per_rollout(self, samples_per_rollout: int) -> int:
        """Optimizer steps that follow one rollout.

        Raises:
            UsageError: if the rollout's samples do not make whole steps.
        """
        if samples_per_rollout % self.global_batch_size:
            raise UsageError(
                f"--global-batch-size {self.global_batch_size}: it does not divide the {samples_per_rollout} samples "
                "of a rollout (--rollout-batch-size times --n-samples-per-prompt)"
            )
        return samples_per_rollout // self.global_batch_size
