"""Which table belongs to which architecture, and whether a checkpoint holds what the table asks for."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from rl_weights.errors import CheckpointError
from rl_weights.json_value import JsonValue
from rl_weights.rules.llama import llama
from rl_weights.rules.mistral import mistral
from rl_weights.rules.model_shape import ModelShape
from rl_weights.rules.qwen2 import qwen2
from rl_weights.rules.qwen3 import qwen3
from rl_weights.rules.qwen3_moe import qwen3_moe
from rl_weights.rules.rule import TensorRule

_TABLES: Mapping[str, Callable[[ModelShape], Iterable[TensorRule]]] = {
    "LlamaForCausalLM": llama,
    "MistralForCausalLM": mistral,
    "Qwen2ForCausalLM": qwen2,
    "Qwen3ForCausalLM": qwen3,
    "Qwen3MoeForCausalLM": qwen3_moe,
}
_MAX_NAMES_SHOWN = 5


def rules_for(
    config: Mapping[str, JsonValue], *, vocab_multiple: int = 1, num_tensors: int | None = None
) -> tuple[TensorRule, ...]:
    """The rules of every tensor of the model, in the order of the layers.

    Args:
        config: content of config.json; `architectures` picks the family.
        vocab_multiple: what the number of rows of Megatron's embedding is a multiple of:
            make-vocab-size-divisible-by times the tensor-parallel size.
        num_tensors: how many the checkpoint has, under either's names. A config.json of more layers or experts is
            refused, where it would take forever to make their rules. Any number if None.

    Raises:
        CheckpointError: for an architecture that no table covers, or sizes that are missing or contradict each other.

    Example:
        >>> rules = rules_for(json.loads(Path("Qwen3-4B/config.json").read_text()))
        >>> rules[0].hf_names
        ('model.embed_tokens.weight',)
    """
    architectures = config.get("architectures")
    known = [name for name in architectures if name in _TABLES] if isinstance(architectures, list) else []
    if len(known) != 1:
        raise CheckpointError(
            f"config.json: architectures: expected one of {', '.join(sorted(_TABLES))}, got {architectures!r}"
        )
    return tuple(_TABLES[str(known[0])](ModelShape.of(config, vocab_multiple=vocab_multiple, num_tensors=num_tensors)))


def check_covered(rules: Sequence[TensorRule], hf_names: Collection[str], where: str) -> None:
    """Checks that rules and Hugging Face tensors fit one another.

    Raises:
        CheckpointError: naming tensors that no rule covers, or that a rule needs and are not there.
    """
    needed = {name for rule in rules for name in rule.hf_names}
    allowed = needed.union(*(rule.tied_names for rule in rules))
    _raise_if_any(set(hf_names) - allowed, f"{where}: no rule covers")
    _raise_if_any(needed - set(hf_names), f"{where}: missing")


def _raise_if_any(names: set[str], what: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:_MAX_NAMES_SHOWN])
        more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
        raise CheckpointError(f"{what} {shown}{more}")
