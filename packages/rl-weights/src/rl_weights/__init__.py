"""Convert, inspect and verify model checkpoints, and hand weights from a trainer to inference engines."""

from rl_weights.errors import CheckpointError, RLWeightsError, SyncError
from rl_weights.protocols import TensorSource, TensorSpec, WeightSink

__all__ = ["CheckpointError", "RLWeightsError", "SyncError", "TensorSource", "TensorSpec", "WeightSink"]
