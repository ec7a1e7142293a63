"""Convert, inspect and verify model checkpoints, and hand weights from a trainer to inference engines."""

from rl_weights.checksum import checksum
from rl_weights.errors import CheckpointError, RLWeightsError, SyncError
from rl_weights.hf import HFCheckpoint
from rl_weights.protocols import TensorSource, TensorSpec, WeightSink
from rl_weights.publisher import Publisher, PublishReport

__all__ = [
    "CheckpointError",
    "HFCheckpoint",
    "PublishReport",
    "Publisher",
    "RLWeightsError",
    "SyncError",
    "TensorSource",
    "TensorSpec",
    "WeightSink",
    "checksum",
]
