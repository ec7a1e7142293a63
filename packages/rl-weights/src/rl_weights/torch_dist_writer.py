"""Checkpoints in Megatron's torch_dist format, written by one process without Megatron, tensor by tensor."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from rl_weights.errors import CheckpointError
from rl_weights.json_value import JsonValue
from rl_weights.torch_dist_names import Place, extra_state_key

_COMMON_STATE_KEY = "common_state/shard_0_1"
_BACKEND = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorToStore:
    """A tensor, or a row of a stacked one, that is made when its turn comes to be written."""

    place: Place
    dtype: torch.dtype
    shape: tuple[int, ...]
    num_parts: int
    """Equal parts, by rows, in which it is written."""
    make: Callable[[], torch.Tensor]
    """Called once; gives the tensor of that dtype and shape."""


def write_torch_dist(
    folder: Path, tensors: Sequence[TensorToStore], num_layers: int, common: Mapping[str, JsonValue]
) -> None:
    """Writes what `dist_checkpointing.save` writes for the same tensors. Holds one tensor at a time.

    Args:
        folder: must be there and be empty.
        tensors: every row of every stacked key, and the tensors outside of the layers.
        num_layers: of the model.
        common: state that is not sharded, such as the iteration.

    Raises:
        CheckpointError: if rows of one key differ in dtype.
    """
    _check_rows(tensors)
    # Without copying ahead the writer asks for the items in their order, with a GPU as without.
    writer = FileSystemWriter(folder, sync_files=False, per_thread_copy_ahead=0)
    _write(writer, _Planner(tensors, num_layers, common))
    (folder / "metadata.json").write_text(json.dumps(_BACKEND))


def _write(writer: FileSystemWriter, planner: "_Planner") -> None:
    """What `torch.distributed.checkpoint.save` does in one process; but that hides every error, also Ctrl-C."""
    # Their signatures leave the type of a path and of a state dict open.
    writer.reset()  # pyright: ignore[reportUnknownMemberType]
    planner.set_up_planner({}, writer.storage_meta(), is_coordinator=True)  # pyright: ignore[reportUnknownMemberType]
    writer.set_up_storage_writer(is_coordinator=True)
    local_plan = writer.prepare_local_plan(planner.create_local_plan())
    global_plans, metadata = planner.create_global_plan([local_plan])
    plan = planner.finish_plan(writer.prepare_global_plan(global_plans)[0])
    writer.finish(metadata, [writer.write_data(plan, planner).wait()])


def _check_rows(tensors: Sequence[TensorToStore]) -> None:
    first_of_key: dict[str, TensorToStore] = {}
    for tensor in tensors:
        first = first_of_key.setdefault(tensor.place.key, tensor)
        if (tensor.dtype, tensor.shape) != (first.dtype, first.shape):
            raise CheckpointError(
                f"{tensor.place.key}: layer {first.place.layer} is {first.dtype} of shape {first.shape}, "
                f"layer {tensor.place.layer} is {tensor.dtype} of shape {tensor.shape}"
            )


class _Planner(DefaultSavePlanner):
    """Tells torch's writer what there is, and makes each item when the writer asks for it."""

    def __init__(self, tensors: Sequence[TensorToStore], num_layers: int, common: Mapping[str, JsonValue]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._parts: dict[MetadataIndex, tuple[TensorToStore, int]] = {}
        self._objects: dict[MetadataIndex, object] = {MetadataIndex(_COMMON_STATE_KEY): dict(common)}
        self._num_layers = num_layers
        self._last: tuple[TensorToStore, torch.Tensor] | None = None
        for tensor in tensors:
            key, layer = tensor.place
            for number in range(tensor.num_parts):
                offset = [number * tensor.shape[0] // tensor.num_parts] + [0] * (len(tensor.shape) - 1)
                self._parts[MetadataIndex(key, offset if layer is None else [layer, *offset])] = tensor, number
            if layer is not None and (extra := extra_state_key(key, layer, num_layers)) is not None:
                self._objects[MetadataIndex(extra)] = None

    def create_local_plan(self) -> SavePlan:
        """Every item that is to be written."""
        items = [WriteItem(index=index, type=WriteItemType.BYTE_IO) for index in self._objects]
        items += [self._item(index, tensor) for index, (tensor, _) in self._parts.items()]
        self.plan = SavePlan(items)
        return self.plan

    def _item(self, index: MetadataIndex, tensor: TensorToStore) -> WriteItem:
        is_row = tensor.place.layer is not None
        size = (self._num_layers, *tensor.shape) if is_row else tensor.shape
        part = (tensor.shape[0] // tensor.num_parts, *tensor.shape[1:])
        assert index.offset is not None
        tensor_data = TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=index.offset, sizes=torch.Size((1, *part) if is_row else part)),
            properties=TensorProperties(dtype=tensor.dtype),
            size=torch.Size(size),
        )
        return WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=tensor_data)

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        """The bytes of an object, or the part of a tensor."""
        if write_item.type is WriteItemType.BYTE_IO:
            stream = io.BytesIO()
            torch.save([self._objects[write_item.index]], stream)
            return stream
        tensor, number = self._parts[write_item.index]
        part = self._made(tensor).chunk(tensor.num_parts)[number]
        return part[None] if tensor.place.layer is not None else part

    def _made(self, tensor: TensorToStore) -> torch.Tensor:
        """The tensor, made once if its parts are asked for one after another."""
        if self._last is None or self._last[0] is not tensor:
            made = tensor.make()
            assert (made.dtype, tuple(made.shape)) == (tensor.dtype, tensor.shape)
            self._last = tensor, made
        return self._last[1]
