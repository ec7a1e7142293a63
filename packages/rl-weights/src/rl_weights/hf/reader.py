"""Model folders in Hugging Face format, read tensor by tensor."""

import json
from collections.abc import Collection, Iterator, Mapping
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
_LENGTH_BYTES = 8
"""In which a safetensors file begins with the length of its header."""


class HFCheckpoint:
    """The tensors of one folder. Nothing but headers is read before it is asked for.

    Args:
        path: a folder with config.json and model.safetensors, or shards with their index.
        problems: gets what is wrong with each file of tensors, which is then left out. It is an error if None.

    Raises:
        CheckpointError: naming the file that is missing, truncated or damaged.
    """

    def __init__(self, path: Path, *, problems: list[str] | None = None) -> None:
        self.path = path
        self.config = read_config(path)
        self.files: dict[str, Path]
        """The file that holds each tensor, by its name."""
        self.specs: dict[str, TensorSpec]
        """Name, dtype and shape of every tensor, in the order of the index, or else of the file."""
        self.files, self.specs = _read_headers(path, problems)

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

    def read_object(self, key: str) -> "tuple[Path, bytes]":
        """The header of the file of that name, and the file.

        Raises:
            CheckpointError: naming the file, if it cannot be read.
        """
        file = self.path / key
        try:
            with file.open("rb") as stream:
                length = stream.read(_LENGTH_BYTES)
                return file, length + stream.read(int.from_bytes(length, "little"))
        except (OSError, OverflowError, MemoryError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error

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
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return cast("dict[str, JsonValue]", content)


def _read_headers(path: Path, problems: list[str] | None) -> "tuple[dict[str, Path], dict[str, TensorSpec]]":
    """File and spec of every tensor, by its name; a file with a problem is left out if problems are noted."""
    files: dict[str, Path] = {}
    specs: dict[str, TensorSpec] = {}
    named = _files_of_index(path) if (path / INDEX_FILE).is_file() else None
    for file, names in _names_by_file(path, named).items():
        try:
            found = _specs_of_file(file, names)
        except CheckpointError as error:
            if problems is None:
                raise
            problems.append(str(error))
        else:
            files |= dict.fromkeys(found, file)
            specs |= found
    order = [name for name in named or files if name in files]
    return {name: files[name] for name in order}, {name: specs[name] for name in order}


def _names_by_file(path: Path, named: Mapping[str, Path] | None) -> dict[Path, set[str] | None]:
    """Every file of tensors with the names that the index gives it; None where there is no index."""
    if named is None:
        file = path / SINGLE_FILE
        if not file.is_file():
            raise CheckpointError(f"{path}: neither {SINGLE_FILE} nor {INDEX_FILE} is there")
        return {file: None}
    names: dict[Path, set[str]] = {}
    for name, file in named.items():
        names.setdefault(file, set()).add(name)
    return {**names}


def _specs_of_file(file: Path, names: Collection[str] | None) -> "dict[str, TensorSpec]":
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file, but {INDEX_FILE} names it")
    opened = _open(file)
    held = opened.keys()
    if names is not None:
        for name in sorted(set(held) - set(names)):
            raise CheckpointError(f"{file}: holds {name}, which {INDEX_FILE} does not say")
        for name in sorted(set(names) - set(held)):
            raise CheckpointError(f"{file}: {INDEX_FILE} says that it holds {name}, but it does not")
    specs: dict[str, TensorSpec] = {}
    for name in held:
        part = opened.get_slice(name)
        code = part.get_dtype()
        dtype = SAFETENSORS_NAMES.get(code, code)
        check_dtype(dtype, f"{file}: {name}")
        specs[name] = (name, dtype, tuple(part.get_shape()))
    return specs


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
    return files


def _open(file: Path, framework: Literal["pt", "np"] = "np") -> _OpenFile:
    """The file, for its header alone unless `framework` is "pt", which imports torch."""
    open_file: Any = safe_open
    try:
        file.open("rb").close()  # for the system's own reason: safetensors takes every refusal for a missing file
        return open_file(file, framework=framework)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{file}: truncated or damaged: {error}") from error
