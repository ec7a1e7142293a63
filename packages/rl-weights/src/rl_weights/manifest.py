"""What a checkpoint holds, tensor by tensor, with checksums: the way to tell later whether it still does."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rl_weights.checksum import checksum
from rl_weights.dtypes import dtype_name
from rl_weights.errors import CheckpointError

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
MANIFEST_FILE = "rl_weights_manifest.json"


class ManifestTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor."""

    name: str
    dtype: str
    """Torch dtype without the prefix."""
    shape: tuple[int, ...]
    checksum: str
    """`rl_weights.checksum` of the tensor."""

    @classmethod
    def of(cls, name: str, tensor: "torch.Tensor") -> "ManifestTensor":
        """The entry of a tensor."""
        return cls(name, dtype_name(tensor.dtype), tuple(tensor.shape), checksum(tensor))


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
