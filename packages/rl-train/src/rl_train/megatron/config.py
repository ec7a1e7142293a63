"""What a Megatron trainer is told beside Megatron's own flags."""

from dataclasses import dataclass, field
from typing import Literal

from rl_train.errors import TrainConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronTrainerConfig:
    """Settings of the trainer's computation. Flags and meanings are slime's unless the help says otherwise.

    Raises:
        TrainConfigError: if a value is out of range.
    """

    log_probs_chunk_size: int = field(
        default=2048,
        metadata={"help": "Tokens whose logits are held at once; the logits of a whole micro-batch never exist."},
    )
    trainer_kernels: Literal["auto", "plain", "fused"] = field(
        default="auto",
        metadata={
            "help": "Norms, rotation, SwiGLU and loss as plain torch or as fused Triton kernels; auto: fused on GPUs. "
            "Our flag.",
            "choices": ("auto", "plain", "fused"),
        },
    )
    recompute_policy: Literal["auto", "none", "activations", "full"] = field(
        default="auto",
        metadata={
            "help": "What the backward pass computes again instead of keeping it: nothing, element-wise results, whole "
            "layers; auto: as little as the GPU's free memory allows, nothing on a CPU. Our flag; Megatron's "
            "--recompute-granularity takes its place.",
            "choices": ("auto", "none", "activations", "full"),
        },
    )

    def __post_init__(self) -> None:
        if self.log_probs_chunk_size < 1:
            raise TrainConfigError(f"log_probs_chunk_size {self.log_probs_chunk_size}: expected a positive number")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerGroupConfig:
    """Deadlines and threads of the trainer's processes. Our flags, none of them slime's.

    Raises:
        TrainConfigError: if a value is out of range.
    """

    trainer_start_timeout_s: float = field(
        default=600.0, metadata={"help": "Seconds until every trainer rank must have loaded its weights."}
    )
    trainer_step_timeout_s: float = field(
        default=1800.0,
        metadata={"help": "Seconds that a training step, a log-probability pass or a weight publication may take."},
    )
    trainer_checkpoint_timeout_s: float = field(
        default=1800.0, metadata={"help": "Seconds that saving or loading a checkpoint may take."}
    )
    trainer_threads: int = field(default=1, metadata={"help": "CPU threads of each trainer rank."})

    def __post_init__(self) -> None:
        for name in ("trainer_start_timeout_s", "trainer_step_timeout_s", "trainer_checkpoint_timeout_s"):
            value: float = getattr(self, name)
            if not value > 0:
                raise TrainConfigError(f"{name} {value}: expected a positive number of seconds")
        if self.trainer_threads < 1:
            raise TrainConfigError(f"trainer_threads {self.trainer_threads}: expected at least 1")
