"""A trainer's weights as a Hugging Face model folder."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from rl_train.errors import TrainConfigError
from rl_weights import TensorSource

_WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth")


class _Shard(NamedTuple):
    tensors: dict[str, Tensor]
    num_bytes: int


def export_hf(source: TensorSource, folder: Path, template: Path, *, shard_bytes: int = 5 * 10**9) -> Path:
    """Writes the source's weights to `folder`, with configuration and tokenizer of `template`. Collective.

    Written beside and renamed at the end: the folder is whole or not there. Host memory holds one shard.

    Raises:
        TrainConfigError: if there is something at `folder` already.
    """
    if not source.is_writer:
        for _ in source.iter_tensors():
            pass
        return folder
    if folder.exists():
        raise TrainConfigError(f"{folder}: there is something already; a model is never overwritten")
    partial = folder.with_name(folder.name + ".tmp")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for path in sorted(template.iterdir()):
        if path.is_file() and not path.name.endswith(_WEIGHT_SUFFIXES):
            shutil.copy2(path, partial / path.name)
    _write_shards(source, partial, shard_bytes)
    partial.rename(folder)
    return folder


def _write_shards(source: TensorSource, folder: Path, shard_bytes: int) -> None:
    names: list[list[str]] = []
    total = 0
    for shard in _shards(source, shard_bytes):
        save_file(shard.tensors, folder / f"{len(names)}.part", metadata={"format": "pt"})
        names.append(list(shard.tensors))
        total += shard.num_bytes
    if len(names) == 1:
        (folder / "0.part").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, of_shard in enumerate(names):
        file = f"model-{number + 1:05d}-of-{len(names):05d}.safetensors"
        (folder / f"{number}.part").rename(folder / file)
        weight_map |= dict.fromkeys(of_shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _shards(source: TensorSource, shard_bytes: int) -> Iterator[_Shard]:
    tensors: dict[str, Tensor] = {}
    num_bytes = 0
    for name, tensor in source.iter_tensors():
        if tensors and num_bytes + tensor.nbytes > shard_bytes:
            yield _Shard(tensors, num_bytes)
            tensors, num_bytes = {}, 0
        # Copied, because a tensor may be a view into one that another name shares.
        tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
        num_bytes += tensor.nbytes
    yield _Shard(tensors, num_bytes)
