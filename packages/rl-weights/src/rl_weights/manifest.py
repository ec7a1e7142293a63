"""What a checkpoint holds, tensor by tensor, with checksums: the way to tell later whether it still does."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rl_weights.checksum import checksum
from rl_weights.dtypes import dtype_name
from rl_weights.errors import CheckpointError
from rl_weights.rules.box import Box

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 2
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


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every tensor of a checkpoint, or of one version of a model's weights."""

    schema_version: int
    tensors: tuple[ManifestTensor, ...]

    def write(self, folder: Path) -> None:
        """Writes it into the folder, under `MANIFEST_FILE`."""
        (folder / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in the folder; None if there is none.

    Raises:
        CheckpointError: naming the file, if it is damaged or of another schema version.
    """
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return None
    content = file.read_bytes()
    try:
        version = msgspec.json.decode(content, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise CheckpointError(f"{file}: expected schema_version {SCHEMA_VERSION}, got {version}")
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{file}: {error}") from error


class _Version(msgspec.Struct):
    schema_version: int
