"""Supervised fine-tuning: the negative log-likelihood of the trained tokens."""

from dataclasses import dataclass

from torch import Tensor

from rl_train.algorithms.types import LossInputs, LossOutput


@dataclass(frozen=True, slots=True)
class SFTLoss:
    """Cross entropy of the trained tokens: sum over t of -w_t log p(x_t | x_<t). Stateless.

    Metrics: nll, the unweighted sum of -log p over trained tokens (in nats).
    """

    needs_entropy: bool = False

    def __call__(self, inputs: LossInputs, /) -> LossOutput:
        """The loss of one micro-batch; advantages and the other policies' log-probabilities are not read."""
        clean = inputs.with_zeros_where_untrained()
        nll = -clean.logprobs
        return LossOutput((clean.loss_weights * nll).sum(), {"nll": nll.detach().sum()})

    def logprob_gradient(self, loss_weights: Tensor) -> Tensor:
        """[T] minus the weights: the loss is linear."""
        return -loss_weights


sft_loss = SFTLoss()
