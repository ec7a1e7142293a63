"""Convert, inspect and verify model checkpoints, and hand weights from a trainer to inference engines.

Every name is imported when it is first asked for: who reads rules, headers or manifests does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rl_weights.checksum import bucket_checksum, checksum
from rl_weights.errors import CheckpointError, RLWeightsError, SyncError

if TYPE_CHECKING:
    from rl_weights.convert import ConvertReport, convert_hf_to_torch_dist, convert_torch_dist_to_hf
    from rl_weights.diff import CheckpointDiff, diff_checkpoints
    from rl_weights.hf import HFCheckpoint
    from rl_weights.hf.writer import write_hf
    from rl_weights.inspect import Inspection, inspect_checkpoint
    from rl_weights.manifest import Manifest, ManifestBytes, ManifestTensor, read_manifest
    from rl_weights.protocols import (
        ChecksumSink,
        DeviceSink,
        FolderSink,
        GroupSink,
        TensorSource,
        TensorSpec,
        TimedSink,
        WeightSink,
    )
    from rl_weights.sync.config import SyncConfig
    from rl_weights.sync.plan import SyncPlan, TrainerLayout
    from rl_weights.sync.publisher import Publisher
    from rl_weights.sync.report import PublishReport
    from rl_weights.sync.sharded_source import ShardedSource
    from rl_weights.torch_dist.layout import ParallelLayout
    from rl_weights.torch_dist.reader import TorchDistCheckpoint
    from rl_weights.verify import VerifyReport, verify_checkpoint

__all__ = [
    "CheckpointDiff",
    "CheckpointError",
    "ChecksumSink",
    "ConvertReport",
    "DeviceSink",
    "FolderSink",
    "GroupSink",
    "HFCheckpoint",
    "Inspection",
    "Manifest",
    "ManifestBytes",
    "ManifestTensor",
    "ParallelLayout",
    "PublishReport",
    "Publisher",
    "RLWeightsError",
    "ShardedSource",
    "SyncConfig",
    "SyncError",
    "SyncPlan",
    "TensorSource",
    "TensorSpec",
    "TimedSink",
    "TorchDistCheckpoint",
    "TrainerLayout",
    "VerifyReport",
    "WeightSink",
    "bucket_checksum",
    "checksum",
    "convert_hf_to_torch_dist",
    "convert_torch_dist_to_hf",
    "diff_checkpoints",
    "inspect_checkpoint",
    "read_manifest",
    "verify_checkpoint",
    "write_hf",
]

_MODULE_OF = {
    "CheckpointDiff": "diff",
    "ChecksumSink": "protocols",
    "ConvertReport": "convert",
    "DeviceSink": "protocols",
    "HFCheckpoint": "hf",
    "ShardedSource": "sync.sharded_source",
    "TrainerLayout": "sync.plan",
    "SyncPlan": "sync.plan",
    "SyncConfig": "sync.config",
    "TimedSink": "protocols",
    "GroupSink": "protocols",
    "FolderSink": "protocols",
    "Inspection": "inspect",
    "Manifest": "manifest",
    "ManifestBytes": "manifest",
    "ManifestTensor": "manifest",
    "ParallelLayout": "torch_dist.layout",
    "PublishReport": "sync.report",
    "Publisher": "sync.publisher",
    "TensorSource": "protocols",
    "TensorSpec": "protocols",
    "TorchDistCheckpoint": "torch_dist.reader",
    "VerifyReport": "verify",
    "WeightSink": "protocols",
    "convert_hf_to_torch_dist": "convert",
    "convert_torch_dist_to_hf": "convert",
    "diff_checkpoints": "diff",
    "inspect_checkpoint": "inspect",
    "read_manifest": "manifest",
    "verify_checkpoint": "verify",
    "write_hf": "hf.writer",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(f"{__name__}.{_MODULE_OF[name]}"))[name]
