"""How long prompts may be, so that each fits with the longest response."""

from collections.abc import Mapping

from recipes.config.limits import max_positions
from recipes.errors import UsageError
from rl_rollout.sglang.arguments import SGLangArguments
from rl_train.megatron.arguments import MegatronArguments


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
