"""GSPO: one ratio for a whole sequence."""

from torch import Tensor

from rl_train.algorithms.sequences import Sequences


def sequence_log_ratio(log_ratio: Tensor, sequences: Sequences) -> Tensor:
    """[T] log of the sequence's length-normalised ratio, at each of its tokens: mean over its trained tokens.

    s = (p(y | x) / p_old(y | x))^(1 / |y|). It goes through the clipped objective in place of the token's ratio. With
    one advantage and one weight for all tokens of a sequence, as under loss reduction "sample", the weighted sum
    over tokens is the paper's objective, in value and gradient.
    Useful bounds are far narrower than PPO's: the paper clips at 3e-4 and 4e-4.

    Args:
        log_ratio: [T] log of present over old policy, 0 where untrained, with gradient.
        sequences: the sequences of the packed row.

    Source: GSPO, arXiv:2507.18071, section 4.1, eq. 5 to 7.
    """
    return sequences.mean(log_ratio)
