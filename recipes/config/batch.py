"""How samples become optimizer steps."""

from dataclasses import dataclass, field

from recipes.config.checks import require_at_least
from recipes.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """Optimizer steps and micro-batches.

    Raises:
        UsageError: if a number makes no sense.
    """

    global_batch_size: int | None = field(
        default=None, metadata={"help": "samples of an optimizer step, over all ranks; or give --num-steps-per-rollout"}
    )
    num_steps_per_rollout: int | None = field(
        default=None, metadata={"help": "optimizer steps that a rollout's samples are split into"}
    )
    max_tokens_per_gpu: int = field(default=8192, metadata={"help": "tokens of a micro-batch at most"})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "global_batch_size", "num_steps_per_rollout", "max_tokens_per_gpu")

    def samples_per_step(self, *, samples_per_rollout: int, num_data_parallel_ranks: int) -> int:
        """Samples of one optimizer step.

        Raises:
            UsageError: if neither flag says, both say different things, or the numbers do not divide.
        """
        step = self.global_batch_size
        if self.num_steps_per_rollout is not None:
            if samples_per_rollout % self.num_steps_per_rollout:
                raise UsageError(
                    f"--num-steps-per-rollout {self.num_steps_per_rollout}: it does not divide "
                    f"the {samples_per_rollout} samples of a rollout"
                )
            step = samples_per_rollout // self.num_steps_per_rollout
            if self.global_batch_size not in (None, step):
                raise UsageError(
                    f"--global-batch-size {self.global_batch_size}: --num-steps-per-rollout "
                    f"{self.num_steps_per_rollout} makes it {step}"
                )
        if step is None:
            raise UsageError("--global-batch-size is missing; or give --num-steps-per-rollout")
        if samples_per_rollout % step:
            raise UsageError(
                f"--global-batch-size {step}: it does not divide the {samples_per_rollout} samples of a rollout"
            )
        if step % num_data_parallel_ranks:
            raise UsageError(
                f"--global-batch-size {step}: it does not divide over {num_data_parallel_ranks} data-parallel ranks"
            )
        return step
