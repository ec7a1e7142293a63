"""A trainer's weights as a Hugging Face model folder."""

from pathlib import Path

from rl_train.megatron.export import MegatronTensorSource
from rl_weights import write_hf


def export_hf(source: MegatronTensorSource, folder: Path, template: Path) -> Path:
    """Writes the source's weights to `folder`, with configuration and tokenizer of `template`. Collective.

    The folder is whole or not there, and has a manifest, by which `rl-weights verify` checks it. One tensor is held at
    a time.

    Raises:
        CheckpointError: if there is something at `folder` already, or the disk refuses.
    """
    tensors = source.iter_tensors()
    try:
        if source.is_writer:
            write_hf(folder, source.tensor_specs(), tensors, hf_checkpoint=template)
    finally:
        source.finish()
    return folder
