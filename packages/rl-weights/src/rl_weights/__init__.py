"""Convert, inspect and verify model checkpoints, and hand weights from a trainer to inference engines."""

from rl_weights.checksum import checksum
from rl_weights.conversion import ConvertReport
from rl_weights.convert import convert_hf_to_torch_dist, convert_torch_dist_to_hf
from rl_weights.diff import CheckpointDiff, diff_checkpoints
from rl_weights.errors import CheckpointError, RLWeightsError, SyncError
from rl_weights.hf import HFCheckpoint
from rl_weights.hf_writer import write_hf
from rl_weights.inspect import Inspection, inspect_checkpoint
from rl_weights.manifest import Manifest, ManifestTensor, read_manifest
from rl_weights.protocols import TensorSource, TensorSpec, WeightSink
from rl_weights.publisher import Publisher, PublishReport
from rl_weights.torch_dist import TorchDistCheckpoint
from rl_weights.verify import VerifyReport, verify_checkpoint

__all__ = [
    "CheckpointDiff",
    "CheckpointError",
    "ConvertReport",
    "HFCheckpoint",
    "Inspection",
    "Manifest",
    "ManifestTensor",
    "PublishReport",
    "Publisher",
    "RLWeightsError",
    "SyncError",
    "TensorSource",
    "TensorSpec",
    "TorchDistCheckpoint",
    "VerifyReport",
    "WeightSink",
    "checksum",
    "convert_hf_to_torch_dist",
    "convert_torch_dist_to_hf",
    "diff_checkpoints",
    "inspect_checkpoint",
    "read_manifest",
    "verify_checkpoint",
    "write_hf",
]
