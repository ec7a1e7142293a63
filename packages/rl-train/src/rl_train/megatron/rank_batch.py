"""A micro-batch as one rank's model and loss take it. T = tokens of the row, N = tokens with a log-probability."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_data import Microbatch
from rl_train.algorithms import LinearLoss, LossFunction, LossInputs
from rl_train.megatron.kernels import Kernels
from rl_train.megatron.model import LogprobRequest
from rl_train.megatron.packed import PackedSequences


class ModelSettings(NamedTuple):
    """What all forward passes of a trainer share."""

    temperature: float
    chunk_size: int
    vocab_size: int
    device: torch.device
    kernels: Kernels


class RankMicrobatch(NamedTuple):
    """A micro-batch on the device, whole before the step begins: later copies would make the GPU wait."""

    tokens: Tensor
    """[T] int64."""
    row: PackedSequences
    scored: Tensor
    """[N] positions of the tokens whose log-probability is asked for."""
    request: LogprobRequest
    loss_weights: Tensor
    """[T] float32, as the tensors below."""
    advantages: Tensor
    rollout_logprobs: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None

    def spread(self, values: Tensor) -> Tensor:
        """[T] float32 with the [N] values at the scored tokens and 0 elsewhere, with gradient."""
        return values.new_zeros(len(self.tokens)).index_copy(0, self.scored, values)

    def loss_inputs(self, logprobs: Tensor, entropy: Tensor) -> LossInputs:
        """What the loss takes, from the [N] outputs of the model."""
        return LossInputs(
            logprobs=self.spread(logprobs),
            loss_weights=self.loss_weights,
            advantages=self.advantages,
            rollout_logprobs=self.rollout_logprobs,
            cu_seqlens=self.row.cu_seqlens_q,
            old_logprobs=self.old_logprobs,
            ref_logprobs=self.ref_logprobs,
            entropy=self.spread(entropy) if self.request.needs_entropy else None,
        )


def trained_tokens(microbatch: Microbatch) -> NDArray[np.int64]:
    """Positions whose loss weight is not 0. What is not trained costs no logits."""
    return np.flatnonzero(microbatch.loss_weights)


def predicted_tokens(microbatch: Microbatch) -> NDArray[np.int64]:
    """Positions of all tokens that have a token before them in their sequence."""
    has_context = np.ones(microbatch.num_tokens, dtype=bool)
    has_context[microbatch.cu_seqlens[:-1]] = False
    return np.flatnonzero(has_context)


def on_rank(
    microbatch: Microbatch, scored: NDArray[np.int64], settings: ModelSettings, loss: LossFunction | None
) -> RankMicrobatch:
    """The micro-batch on the device, with log-probabilities to be computed at `scored`.

    The hidden state of the token before predicts a token, so a sequence's first token must not be among them: see
    `check_batch`.

    Args:
        microbatch: of this rank.
        scored: [N] positions.
        settings: of the trainer.
        loss: what it is for; None: only the log-probabilities are wanted.
    """
    device = settings.device
    tokens = torch.tensor(microbatch.tokens, dtype=torch.int64, device=device)
    positions = torch.tensor(scored, dtype=torch.int64, device=device)

    def on_device(array: NDArray[np.float32]) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=device)

    loss_weights = on_device(microbatch.loss_weights)
    known_gradient = loss.logprob_gradient(loss_weights)[positions] if isinstance(loss, LinearLoss) else None
    old, ref = microbatch.old_logprobs, microbatch.ref_logprobs
    return RankMicrobatch(
        tokens=tokens,
        row=PackedSequences.of(microbatch, device),
        scored=positions,
        request=LogprobRequest(
            positions=positions - 1,
            targets=tokens[positions],
            temperature=settings.temperature,
            needs_entropy=loss is not None and loss.needs_entropy,
            chunk_size=settings.chunk_size,
            vocab_size=settings.vocab_size,
            kernels=settings.kernels,
            known_gradient=known_gradient,
        ),
        loss_weights=loss_weights,
        advantages=on_device(microbatch.advantages),
        rollout_logprobs=on_device(microbatch.rollout_logprobs),
        old_logprobs=None if old is None else on_device(old),
        ref_logprobs=None if ref is None else on_device(ref),
    )
