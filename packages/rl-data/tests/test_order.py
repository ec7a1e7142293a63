import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_data.order import shuffled


@given(num_rows=st.integers(1, 300), seed=st.integers(-(2**63), 2**64), epoch=st.integers(0, 1000))
def test_a_shuffled_epoch_holds_every_row_once(num_rows: int, seed: int, epoch: int):
    rows = [shuffled(position, num_rows, seed=seed, epoch=epoch) for position in range(num_rows)]
    assert sorted(rows) == list(range(num_rows))


def test_seed_and_epoch_change_the_order():
    def order(seed: int, epoch: int) -> list[int]:
        return [shuffled(position, 1000, seed=seed, epoch=epoch) for position in range(1000)]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(5) for epoch in range(5)}) == 25


def test_the_order_looks_random():
    """Rank correlation with the file's order, and mean step between neighbours, are those of a random permutation."""
    rows = np.array([shuffled(position, 10_000, seed=3, epoch=1) for position in range(10_000)])
    # The correlation of a random permutation has a standard deviation of 1 / sqrt(n - 1) = 0.01; 4 of them are allowed.
    assert abs(np.corrcoef(rows, np.arange(10_000))[0, 1]) < 0.04
    # Two random rows are n / 3 apart on average, here with a standard deviation of about 24.
    assert np.abs(np.diff(rows)).mean() == pytest.approx(10_000 / 3, abs=100)


def test_small_data_sets_reach_every_order():
    orders = {tuple(shuffled(position, 3, seed=0, epoch=epoch) for position in range(3)) for epoch in range(200)}
    assert len(orders) == 6
