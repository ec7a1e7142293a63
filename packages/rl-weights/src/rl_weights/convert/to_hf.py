"""torch_dist to Hugging Face, tensor by tensor."""

from pathlib import Path

from rl_weights.conversion_log import ConvertReport, Progress
from rl_weights.convert.wanted import FloatName, WantedValues
from rl_weights.hf import read_config
from rl_weights.hf.writer import DEFAULT_SHARD_BYTES, write_hf
from rl_weights.torch_dist.as_hf import TorchDistAsHF
from rl_weights.torch_dist.reader import TorchDistCheckpoint


def convert_torch_dist_to_hf(
    load: Path | str,
    hf_checkpoint: Path | str,
    save_hf: Path | str,
    *,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    dtype: FloatName | None = None,
    require_finite: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Writes a model folder in Hugging Face format from a release or a training checkpoint of any parallel layout.

    Args:
        load: folder of Megatron's checkpoints, of which the latest is taken, or one checkpoint in it.
        hf_checkpoint: model folder from which config.json, tokenizer and the like are carried over.
        save_hf: folder to make; must not be there, or be empty.
        max_shard_bytes: size of a safetensors file at most, unless one tensor is larger.
        dtype: what the weights are cast to; as they are if None.
        require_finite: whether a NaN or an infinity is refused.
        progress: told of each tensor.

    Raises:
        CheckpointError: for a checkpoint that is incomplete, damaged, or does not belong to that config.json.
            `save_hf` is as it was.
    """
    source = TorchDistAsHF(TorchDistCheckpoint(Path(load)), read_config(Path(hf_checkpoint)))
    wanted = WantedValues(dtype=dtype, require_finite=require_finite)
    tensors = ((name, wanted.apply(f"{source.path}: {name}", tensor)) for name, tensor in source.iter_tensors())
    return write_hf(
        save_hf,
        [wanted.spec(spec) for spec in source.specs.values()],
        tensors,
        hf_checkpoint=hf_checkpoint,
        max_shard_bytes=max_shard_bytes,
        ahead=True,
        progress=progress,
    )
