"""Model folders in Hugging Face format, read tensor by tensor."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast

from safetensors import SafetensorError, safe_open

from rl_weights.dtypes import SAFETENSORS_NAMES, check_dtype
from rl_weights.errors import CheckpointError
from rl_weights.json_value import JsonValue

if TYPE_CHECKING:
    import torch

    from rl_weights.protocols import TensorSpec

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


class HFCheckpoint:
    """The tensors of one folder. Nothing but headers is read before it is asked for.

    Args:
        path: a folder with config.json and model.safetensors, or shards with their index.

    Raises:
        CheckpointError: naming the file that is missing, truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self.files: dict[str, Path] = _files_of_tensors(path)
        """The file that holds each tensor, by its name."""
        self.specs: dict[str, TensorSpec] = _specs(self.files)
        """Name, dtype and shape of every tensor, in the order of the files."""

    def read(self, name: str) -> "torch.Tensor":
        """The tensor of that name, which must be one of `specs`.

        Raises:
            CheckpointError: naming the file, if it is damaged.
        """
        file = self.files[name]
        try:
            # Opened anew each time, so that the pages of tensors that were read before count no longer as memory.
            with _open(file, "pt") as tensors:
                return tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: {name}: {error}") from error

    def file_of(self, name: str) -> str:
        """The file in which that tensor lies."""
        return str(self.files[name])

    def iter_tensors(self) -> "Iterator[tuple[str, torch.Tensor]]":
        """Every tensor, in the order of `specs`."""
        return ((name, self.read(name)) for name in self.specs)


class _Slice(Protocol):
    """A tensor of an open file, unread."""

    def get_dtype(self) -> str: ...

    def get_shape(self) -> list[int]: ...


class _OpenFile(Protocol):
    """What safetensors' `safe_open` gives; its own stub has no types."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> "torch.Tensor": ...

    def get_slice(self, name: str) -> _Slice: ...


def _specs(files: Mapping[str, Path]) -> "dict[str, TensorSpec]":
    open_files = {file: _open(file) for file in dict.fromkeys(files.values())}
    specs: dict[str, TensorSpec] = {}
    for name, file in files.items():
        try:
            part = open_files[file].get_slice(name)
        except SafetensorError as error:
            raise CheckpointError(f"{file}: {INDEX_FILE} says that it holds {name}, but it does not") from error
        code = part.get_dtype()
        dtype = SAFETENSORS_NAMES.get(code, code)
        check_dtype(dtype, f"{file}: {name}")
        specs[name] = (name, dtype, tuple(part.get_shape()))
    return specs


def read_config(path: Path) -> Mapping[str, JsonValue]:
    """The content of the folder's config.json.

    Raises:
        CheckpointError: if there is no such file or it holds no JSON object.
    """
    file = path / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; expected a model folder in Hugging Face format")
    return _read_object(file)


def _read_object(file: Path) -> dict[str, JsonValue]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return cast("dict[str, JsonValue]", content)


def _files_of_tensors(path: Path) -> dict[str, Path]:
    if (path / INDEX_FILE).is_file():
        return _files_of_index(path)
    file = path / SINGLE_FILE
    if not file.is_file():
        raise CheckpointError(f"{path}: neither {SINGLE_FILE} nor {INDEX_FILE} is there")
    return dict.fromkeys(_open(file).keys(), file)


def _files_of_index(path: Path) -> dict[str, Path]:
    index = path / INDEX_FILE
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: expected an object `weight_map` of tensor names and files")
    files: dict[str, Path] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index}: {name}: expected the name of a file beside it, got {file!r}")
        files[name] = path / file
    for file in dict.fromkeys(files.values()):
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file, but {INDEX_FILE} names it")
        for name in _open(file).keys():  # noqa: SIM118 - the handle is no mapping
            if files.get(name) != file:
                raise CheckpointError(f"{file}: holds {name}, which {INDEX_FILE} does not say")
    return files


def _open(file: Path, framework: Literal["pt", "np"] = "np") -> _OpenFile:
    """The file, for its header alone unless `framework` is "pt", which imports torch."""
    open_file: Any = safe_open
    try:
        return open_file(file, framework=framework)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: truncated or damaged: {error}") from error
