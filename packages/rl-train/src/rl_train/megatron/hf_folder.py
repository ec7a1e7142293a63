"""A trainer's weights as a Hugging Face model folder."""

from pathlib import Path

from rl_train.megatron.export import MegatronTensorSource
from rl_weights.hf_writer import DEFAULT_SHARD_BYTES, carry_over, write_tensors
from rl_weights.new_folder import new_folder


def export_hf(source: MegatronTensorSource, folder: Path, template: Path) -> Path:
    """Writes the source's weights to `folder`, with configuration and tokenizer of `template`. Collective.

    The folder is whole or not there. One tensor is held at a time.

    Raises:
        CheckpointError: if there is something at `folder` already, or the disk refuses.
    """
    tensors = source.iter_tensors()
    try:
        if source.is_writer:
            specs = source.tensor_specs()
            with new_folder(folder) as partial:
                carry_over(template, partial, (dtype for _, dtype, _ in specs))
                write_tensors(partial, specs, (tensor for _, tensor in tensors), max_shard_bytes=DEFAULT_SHARD_BYTES)
    finally:
        source.finish()
    return folder
