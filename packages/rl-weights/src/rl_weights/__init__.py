"""Convert, inspect and verify model checkpoints, and hand weights from a trainer to inference engines."""

from rl_weights.checksum import checksum
from rl_weights.convert import ConvertReport, convert_hf_to_torch_dist, convert_torch_dist_to_hf
from rl_weights.errors import CheckpointError, RLWeightsError, SyncError
from rl_weights.hf import HFCheckpoint
from rl_weights.manifest import Manifest, ManifestTensor, read_manifest
from rl_weights.protocols import TensorSource, TensorSpec, WeightSink
from rl_weights.publisher import Publisher, PublishReport
from rl_weights.torch_dist import TorchDistCheckpoint

__all__ = [
    "CheckpointError",
    "ConvertReport",
    "HFCheckpoint",
    "Manifest",
    "ManifestTensor",
    "PublishReport",
    "Publisher",
    "RLWeightsError",
    "SyncError",
    "TensorSource",
    "TensorSpec",
    "TorchDistCheckpoint",
    "WeightSink",
    "checksum",
    "convert_hf_to_torch_dist",
    "convert_torch_dist_to_hf",
    "read_manifest",
]
