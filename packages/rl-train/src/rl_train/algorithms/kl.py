"""Estimators of the divergence from the reference policy, from the drawn token alone."""

from torch import Tensor

from rl_train.algorithms.clipped import MAX_LOG_RATIO
from rl_train.algorithms.config import KLType

# low_var_kl bounds the estimate of one token to this, as slime, verl and NeMo-RL do.
MAX_LOW_VAR_KL = 10.0


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KLType, ratio: Tensor | None = None) -> Tensor:
    """[T] estimate of KL(policy || reference) at each token.

    With d = log p - log p_ref: k1 = d; k2 = d^2 / 2; k3 = exp(-d) - 1 + d; low_var_kl = k3 within [-10, 10].
    Given `ratio`, the estimate is multiplied by it before the bound of low_var_kl.

    In a loss, k1's gradient has expectation 0 on samples of the present policy (it regularises nothing), k2's is the
    gradient of the reverse KL and k3's that of the forward one; k1's value is unbiased.

    Args:
        logprobs: [T] under the present policy, with gradient.
        ref_logprobs: [T] under the reference.
        kind: the estimator.
        ratio: [T] present over old policy, with gradient, for samples of the old policy; None: 1.

    Source: Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx.html, 2020); the ratio: DeepSeek-V3.2,
        arXiv:2512.02556, section 3.1 (Scaling GRPO), eq. 7.
    """
    difference = logprobs - ref_logprobs
    if kind == "k1":
        estimate = difference
    elif kind == "k2":
        estimate = difference.square() / 2
    else:
        # The whole exponent is bounded: bounding the exponential alone would leave the linear term and turn the
        # gradient around.
        bounded = difference.clamp(min=-MAX_LOG_RATIO)
        estimate = (-bounded).exp() - 1 + bounded
    if ratio is not None:
        estimate = ratio * estimate
    return estimate.clamp(-MAX_LOW_VAR_KL, MAX_LOW_VAR_KL) if kind == "low_var_kl" else estimate
