"""Model folders in Hugging Face format, written tensor by tensor."""

import itertools
import json
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from rl_weights.buckets import plan_buckets
from rl_weights.checksum import as_bytes, checksum
from rl_weights.conversion_log import ConversionLog, ConvertReport, Progress
from rl_weights.dtypes import SAFETENSORS_NAMES, dtype_name, num_bytes
from rl_weights.errors import CheckpointError
from rl_weights.hf.reader import INDEX_FILE, SINGLE_FILE, read_config
from rl_weights.manifest import MANIFEST_FILE, ManifestBytes, entries_of_files
from rl_weights.new_folder import new_folder
from rl_weights.protocols import TensorSpec
from rl_weights.read_ahead import read_ahead
from rl_weights.streamed_file import StreamedFile

DEFAULT_SHARD_BYTES = 5_000_000_000
_DTYPE_CODES = {name: code for code, name in SAFETENSORS_NAMES.items()}
# The format wants the tensors' bytes to start at a multiple of this.
_ALIGNMENT = 8
_NOT_CARRIED_OVER = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")


def write_hf(
    save_hf: Path | str,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    hf_checkpoint: Path | str,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    ahead: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Writes a whole model folder: weights, configuration, tokenizer and manifest. Holds one tensor at a time, or two.

    Args:
        save_hf: folder to make; must not be there, or be empty.
        specs: what is to be written.
        tensors: names and tensors, in the order of `specs`.
        hf_checkpoint: model folder from which all but the weights is carried over.
        max_shard_bytes: size of a safetensors file at most, unless one tensor is larger.
        ahead: whether the next tensor is made, in a thread, while one is written.
        progress: told of each tensor.

    Raises:
        CheckpointError: naming a tensor that is not as its spec says, or what the disk refuses. `save_hf` is as it was.
    """
    if max_shard_bytes < 1:
        raise CheckpointError(f"max_shard_bytes: expected at least 1, got {max_shard_bytes}")
    log = ConversionLog(sum(num_bytes(dtype, shape) for _, dtype, shape in specs), progress)

    def noted() -> Iterator[torch.Tensor]:
        wanted = iter(specs)
        for name, tensor in tensors:
            _check(f"{save_hf}: ", next(wanted, None), name, tensor)
            contiguous = tensor.detach().contiguous().cpu()
            log.note(name, contiguous)
            yield contiguous
        if (missing := next(wanted, None)) is not None:
            raise CheckpointError(f"{save_hf}: the tensors end before {missing[0]}")

    with new_folder(Path(save_hf)) as folder:
        _carry_over(Path(hf_checkpoint), folder, (dtype for _, dtype, _ in specs))
        with read_ahead(noted()) if ahead else nullcontext(noted()) as coming:
            headers = _write_tensors(folder, specs, _counted(coming, log), max_shard_bytes=max_shard_bytes)
        log.manifest(entries_of_files(folder, but=".safetensors"), headers).write(folder)
    return log.report()


def _counted(tensors: Iterable[torch.Tensor], log: ConversionLog) -> Iterator[torch.Tensor]:
    """The tensors, each of which is counted once the next is asked for: it has been written then."""
    for tensor in tensors:
        size = tensor.nbytes
        yield tensor
        log.advance(size)


def _check(where: str, spec: TensorSpec | None, name: str, tensor: torch.Tensor) -> None:
    if spec is None or name != spec[0]:
        raise CheckpointError(f"{where}expected {'no more tensors' if spec is None else spec[0]}, got {name}")
    expected, got = (spec[1], tuple(spec[2])), (dtype_name(tensor.dtype), tuple(tensor.shape))
    if got != expected:
        raise CheckpointError(f"{where}{name}: expected {expected}, got {got}")


def _write_tensors(
    folder: Path, specs: Sequence[TensorSpec], tensors: Iterator[torch.Tensor], *, max_shard_bytes: int
) -> list[ManifestBytes]:
    """Writes safetensors files, and their index if they are several; says what their headers are.

    Args:
        folder: where to write; must be there.
        specs: what is to be written.
        tensors: those, in the same order; is asked for one more at the end.
        max_shard_bytes: size of a file at most, unless one tensor is larger.
    """
    shards = plan_buckets(specs, max_shard_bytes)
    if len(shards) == 1:
        files = [SINGLE_FILE]
    else:
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    headers = [
        _write_shard(folder / file, shard.specs, itertools.islice(tensors, len(shard.specs)))
        for file, shard in zip(files, shards, strict=True)
    ]
    deque(tensors, maxlen=0)
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name, _, _ in shard.specs}
        total = sum(shard.num_bytes for shard in shards)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    return headers


def _write_shard(file: Path, specs: Sequence[TensorSpec], tensors: Iterable[torch.Tensor]) -> ManifestBytes:
    header = _header(specs)
    with StreamedFile(file) as stream:
        stream.write(header)
        for tensor in tensors:
            stream.write(memoryview(as_bytes(tensor).numpy()))
    return ManifestBytes(file.name, len(header), checksum(header))


def _header(specs: Sequence[TensorSpec]) -> bytes:
    """The start of a safetensors file: length of the JSON that follows (8 bytes), and the JSON."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in specs:
        end = offset + num_bytes(dtype, shape)
        entries[name] = {"dtype": _DTYPE_CODES[dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _carry_over(source: Path, folder: Path, dtypes: Iterable[str]) -> None:
    """Copies configuration and tokenizer of a model folder, all but its weights.

    config.json names the dtype of the weights; it gets the new one where all tensors have the same. How the weights
    were quantised is left out: what is written is not.

    Args:
        source: the model folder.
        folder: where to copy to.
        dtypes: of the tensors that are written to `folder`.
    """
    for file in sorted(source.iterdir()):
        is_weight = file.name.endswith(_NOT_CARRIED_OVER) or file.name == MANIFEST_FILE
        if file.is_file() and not file.name.startswith(".") and not is_weight:
            shutil.copyfile(file, folder / file.name)
    config = read_config(source)
    changed = _with_dtype(config, set(dtypes))
    if changed != config:
        (folder / "config.json").write_text(json.dumps(changed, indent=2) + "\n")


def _with_dtype(config: Mapping[str, object], dtypes: set[str]) -> Mapping[str, object]:
    changed = {key: value for key, value in config.items() if key != "quantization_config"}
    if len(dtypes) != 1:
        return changed
    (dtype,) = dtypes
    return {key: dtype if key in ("dtype", "torch_dtype") else value for key, value in changed.items()}
