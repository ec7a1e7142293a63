"""What has to fit: prompts with the longest response, and what moves off a GPU into the host's memory."""

import math
from collections.abc import Mapping

from recipes.config import EnginePlacementConfig
from recipes.config.limits import max_positions
from recipes.errors import UsageError
from rl_data.json import JsonValue
from rl_rollout.sglang.arguments import SGLangArguments
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.host_memory import require_host_memory
from rl_weights.rules import rules_for

_FFN = "intermediate_size"
_FLOAT32, _HALF = 4, 2


def engine_rooms(megatron: MegatronArguments, sglang: SGLangArguments) -> dict[str, int]:
    """What limits prompt and response together in an engine -> how many tokens it leaves them."""
    rooms = {"config.json: max_position_embeddings": max_positions(megatron)}
    context_length = sglang.explicit.get("context_length")
    if isinstance(context_length, int):
        rooms["--sglang-context-length"] = context_length
    return rooms


def prompt_limit(wanted: int | None, rooms: Mapping[str, int], *, response_flag: str, response: int) -> int:
    """Tokens of a prompt at most.

    Args:
        wanted: the user's own limit, if there is one.
        rooms: what limits prompt and response together -> how many tokens it leaves them.
        response_flag: the flag that says how long a response may be.
        response: its tokens.

    Raises:
        UsageError: if the longest response leaves no room for a prompt.
    """
    what, room = min(rooms.items(), key=lambda item: item[1])
    if room <= response:
        raise UsageError(f"{what} {room}: no room for a prompt beside a response of {response_flag} {response} tokens")
    return room - response if wanted is None else min(room - response, wanted)


def check_engine_ranks(num_ranks: int, model_config: Mapping[str, JsonValue]) -> None:
    """Does nothing if an engine can spread the model over so many GPUs.

    Raises:
        UsageError: naming what of the model cannot be divided.
    """
    sizes = {name: model_config.get(name) for name in ("num_attention_heads", "num_key_value_heads", _FFN)}
    for name, size in sizes.items():
        is_repeated = name == "num_key_value_heads" and isinstance(size, int) and num_ranks % size == 0
        if isinstance(size, int) and size % num_ranks and not is_repeated:
            raise UsageError(
                f"--rollout-num-gpus-per-engine {num_ranks}: config.json has {name} {size}, of which each GPU of an "
                "engine would have to get the same number"
            )


def parked_bytes(
    placement: EnginePlacementConfig, model_config: Mapping[str, JsonValue], megatron: MegatronArguments
) -> int:
    """Bytes that the trainer's ranks move into host memory together.

    Two float32 moments of each parameter, and its float32 master copy if the model computes in bfloat16; they are
    spread over all ranks. With --offload-train-parameters also the model's own weights, of each data-parallel rank.
    """
    if not placement.moves_optimizer:
        return 0
    num_parameters = sum(math.prod(shape) for rule in rules_for(model_config) for shape in rule.hf_shapes)
    is_half = bool(megatron.values["bf16"])
    num_bytes = num_parameters * _FLOAT32 * (3 if is_half else 2)
    if placement.offload_train_parameters:
        world_size = megatron.values["world_size"]
        assert isinstance(world_size, int)
        copies = world_size // megatron.model_parallel_size
        num_bytes += copies * num_parameters * (_HALF if is_half else _FLOAT32)
    return num_bytes


def check_host_memory(
    placement: EnginePlacementConfig,
    model_config: Mapping[str, JsonValue],
    megatron: MegatronArguments,
    *,
    num_nodes: int,
) -> None:
    """Does nothing if this machine's memory holds what the ranks of a node move there.

    Of several nodes, which have as many ranks each, this one stands for the others.

    Raises:
        HostMemoryError: if it does not.
    """
    require_host_memory(parked_bytes(placement, model_config, megatron) // num_nodes, "--offload-train")
