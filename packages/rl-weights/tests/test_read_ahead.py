import threading

import pytest

from rl_weights.read_ahead import read_ahead


def test_items_come_in_order_and_one_is_made_while_its_predecessor_is_used():
    made = []
    is_made = [threading.Event() for _ in range(4)]

    def make():
        for number in range(4):
            made.append(number)
            is_made[number].set()
            yield number

    with read_ahead(make()) as items:
        for number in items:
            if number < 3:
                assert is_made[number + 1].wait(10), "the next is made though this one is still used"
            assert len(made) <= number + 2, "no more than the next"
    assert made == [0, 1, 2, 3]


def test_what_making_an_item_raises_comes_to_the_reader():
    def make():
        yield 1
        raise ValueError("two")

    taken = []

    def take():
        with read_ahead(make()) as items:
            taken.extend(items)

    with pytest.raises(ValueError, match="two"):
        take()


def test_a_reader_may_leave_early():
    with read_ahead(iter(range(1000))) as items:
        assert next(items) == 0
