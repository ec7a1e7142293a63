"""How long a sequence may be, by the settings of Megatron and the model's config.json."""

from recipes.config.batch import BatchConfig
from recipes.errors import UsageError
from rl_train.megatron.arguments import MegatronArguments


def token_budget(batch: BatchConfig, megatron: MegatronArguments) -> int:
    """Tokens of the longest sequence that a micro-batch can hold.

    It is --max-tokens-per-gpu, rounded down under sequence parallelism, which pads micro-batches to a multiple of the
    tensor-parallel size.

    Raises:
        UsageError: if nothing is left.
    """
    tensor = megatron.values["tensor_model_parallel_size"]
    assert isinstance(tensor, int)
    multiple = tensor if megatron.values["sequence_parallel"] else 1
    if batch.max_tokens_per_gpu < multiple:
        raise UsageError(
            f"--max-tokens-per-gpu {batch.max_tokens_per_gpu}: --sequence-parallel needs at least "
            f"--tensor-model-parallel-size {multiple}"
        )
    return batch.max_tokens_per_gpu // multiple * multiple


def max_positions(megatron: MegatronArguments) -> int:
    """Tokens of the longest sequence that the model is made for: max_position_embeddings in its config.json."""
    positions = megatron.values["max_position_embeddings"]
    assert isinstance(positions, int)
    return positions
