import torch

from rl_rollout.sglang.seeded_draw import invert, uniform

MASK = (1 << 64) - 1


def splitmix64(seed, position):
    """The generator of the paper in Python's integers."""
    state = (seed + (position + 1) * 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return (state ^ (state >> 31)) >> 11


def test_uniform_numbers_are_those_of_splitmix64():
    pairs = [(0, 0), (1, 7), (2**63 - 1, 511), (1234567, 0), (2**62, 10**6)]
    seeds, positions = (torch.tensor(column) for column in zip(*pairs, strict=True))
    expected = [splitmix64(*pair) / 2**53 for pair in pairs]
    assert uniform(seeds, positions).tolist() == expected


def test_inversion_takes_the_token_whose_share_of_the_line_holds_the_number():
    weights = torch.tensor([[0.0, 0.25, 0.5, 0.0, 0.25, 0.0]]).repeat(6, 1)
    numbers = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert invert(weights, numbers).tolist() == [1, 1, 2, 2, 4, 4]


def test_weights_need_no_normalisation():
    weights = torch.tensor([[1.0, 3.0]]).repeat(2, 1)
    assert invert(weights, torch.tensor([0.2, 0.3], dtype=torch.float64)).tolist() == [0, 1]


def test_tokens_come_as_often_as_their_probability_says():
    num_draws, probs = 40000, torch.tensor([0.1, 0.2, 0.3, 0.4])
    numbers = uniform(torch.arange(num_draws), torch.full((num_draws,), 17))
    counts = torch.bincount(invert(probs.repeat(num_draws, 1), numbers), minlength=4)
    # Four standard deviations of a binomial count are at most 0.01 of the draws.
    assert torch.allclose(counts / num_draws, probs, atol=0.01)
