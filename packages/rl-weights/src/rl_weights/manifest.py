"""What a checkpoint holds, with checksums of all that was written: the way to tell later whether it still does."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rl_weights.checksum import checksum, checksum_of_file
from rl_weights.dtypes import dtype_name
from rl_weights.errors import CheckpointError
from rl_weights.rules.box import Box

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 3
_OF_TENSORS_ALONE = 2
"""The schema version before, that has neither files nor objects. It is still read."""
MANIFEST_FILE = "rl_weights_manifest.json"


class ManifestTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One tensor, or one part of a tensor that is stored in parts."""

    name: str
    dtype: str
    """Torch dtype without the prefix."""
    shape: tuple[int, ...]
    checksum: str
    """`rl_weights.checksum` of the tensor."""
    offset: tuple[int, ...] | None = None
    """Where the part starts in the tensor of that name; None for the whole."""

    @classmethod
    def of(cls, name: str, tensor: "torch.Tensor", offset: tuple[int, ...] | None = None) -> "ManifestTensor":
        """The entry of a contiguous tensor, or of a part that starts at `offset`."""
        return cls(name, dtype_name(tensor.dtype), tuple(tensor.shape), checksum(tensor), offset)

    @property
    def box(self) -> Box:
        """Where it lies in the tensor of that name."""
        return Box.whole(self.shape) if self.offset is None else Box(self.offset, self.shape)


class ManifestBytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes that are no tensor's: a file beside the weights, an object of a torch_dist checkpoint, a header."""

    name: str
    """Of the file in its folder, which stands for its header among the objects, or key of the object."""
    num_bytes: int
    checksum: str
    """`rl_weights.checksum` of the bytes."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every tensor of a checkpoint, and what stands beside them in its folder."""

    schema_version: int
    tensors: tuple[ManifestTensor, ...]
    files: tuple[ManifestBytes, ...] | None = None
    """Every file but those of the tensors and the manifest; None if the manifest is older and cannot tell."""
    objects: tuple[ManifestBytes, ...] | None = None
    """Everything in a torch_dist checkpoint that is not a tensor, or the headers of safetensors files; None like
    `files`. Manifests of before have no headers."""

    def write(self, folder: Path) -> None:
        """Writes it into the folder, under `MANIFEST_FILE`."""
        (folder / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))


def entry_of_file(file: Path) -> ManifestBytes:
    """The entry of a file as it is now."""
    return ManifestBytes(file.name, file.stat().st_size, checksum_of_file(file))


def entries_of_files(folder: Path, *, but: str) -> tuple[ManifestBytes, ...]:
    """The entries of the files in the folder, but for the manifest's and those whose name ends with `but`."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return tuple(entry_of_file(file) for file in files if not file.name.endswith((but, MANIFEST_FILE)))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in the folder; None if there is none.

    Raises:
        CheckpointError: naming the file, if it is damaged or of another schema version.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version not in (_OF_TENSORS_ALONE, SCHEMA_VERSION):
            known = f"{_OF_TENSORS_ALONE} or {SCHEMA_VERSION}"
            raise CheckpointError(f"{file}: expected schema_version {known}, got {version}")
        manifest = msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{file}: {error}") from error
    has_all = manifest.files is not None and manifest.objects is not None
    if has_all != (version == SCHEMA_VERSION):
        raise CheckpointError(f"{file}: files and objects: expected with schema_version {SCHEMA_VERSION} alone")
    for entry in manifest.files or ():
        if Path(entry.name).name != entry.name:
            raise CheckpointError(f"{file}: files: expected the name of a file beside it, got {entry.name!r}")
    return manifest


class _Version(msgspec.Struct):
    schema_version: int
