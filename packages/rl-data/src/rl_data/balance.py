"""Splits of samples over ranks and micro-batches.

Every split puts the largest sample first where the load is least (Graham 1969, "Bounds on multiprocessing timing
anomalies"); where that overflows a budget, the longest sample goes into the first micro-batch with room (Johnson 1974,
"first-fit decreasing"). Nothing is random: equal samples give an equal split.
"""

import heapq
from collections.abc import Mapping, Sequence

from rl_data.errors import DataError
from rl_data.json import JsonValue


def attention_length_of(model_config: Mapping[str, JsonValue]) -> float:
    """The length at which a model's causal attention costs as much as all its matrices.

    A token of a sequence of length L costs 2 L x heads x head_dim operations in attention in every layer (scores and
    values, 2 operations each, over L / 2 tokens on average), and 2 in every weight of a matrix.

    Args:
        model_config: config.json of a Hugging Face model whose layers are dense and alike.

    Raises:
        DataError: if a size is missing.
    """

    def size(name: str, default: float | None = None) -> float:
        value = model_config.get(name, default)
        if not isinstance(value, int | float) or value <= 0:
            raise DataError(f"model config: expected {name} as a number above 0, got {value!r}")
        return float(value)

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    head_dim = size("head_dim", hidden / heads)
    attention = hidden * head_dim * 2 * (heads + size("num_key_value_heads", heads))
    weights = size("num_hidden_layers") * (attention + 3 * hidden * size("intermediate_size"))
    weights += hidden * size("vocab_size")
    return weights / (size("num_hidden_layers") * heads * head_dim)


def _largest_first(indices: Sequence[int], sizes: Sequence[float]) -> list[int]:
    return sorted(indices, key=lambda index: (-sizes[index], index))


def split_evenly(indices: Sequence[int], work: Sequence[float], num_parts: int) -> list[list[int]]:
    """Parts of nearly equal total work: the largest first, each to the part that has the least."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    heap = [(0.0, part) for part in range(num_parts)]
    for index in _largest_first(indices, work):
        total, part = heap[0]
        parts[part].append(index)
        heapq.heapreplace(heap, (total + work[index], part))
    return parts


def first_fit(indices: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Few parts under the budget: the longest first, each to the first part with room."""
    parts: list[list[int]] = []
    rooms: list[int] = []
    for index in _largest_first(indices, lengths):
        length = lengths[index]
        part = next((part for part, room in enumerate(rooms) if room >= length), len(parts))
        if part == len(parts):
            parts.append([])
            rooms.append(budget)
        parts[part].append(index)
        rooms[part] -= length
    return parts


def even_out(
    fitted: Sequence[Sequence[int]], lengths: Sequence[int], work: Sequence[float], num_parts: int, budget: int
) -> list[list[int]]:
    """Exactly `num_parts` parts under the budget: even ones where that is possible, else those that `first_fit` gave.

    Args:
        fitted: at most `num_parts` parts under the budget; some of the parts returned are empty where there are fewer.
    """
    parts = split_evenly([index for part in fitted for index in part], work, num_parts)
    if any(sum(lengths[index] for index in part) > budget for part in parts):
        parts = [list(part) for part in fitted] + [[] for _ in range(num_parts - len(fitted))]
    return [sorted(part) for part in parts]
