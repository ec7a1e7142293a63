import subprocess
import sys

import rl_weights
import rl_weights.rules
import rl_weights.testing

HEAVY = ("megatron", "ray", "sglang", "transformers")


def test_the_public_names_are_these():
    assert rl_weights.__all__ == [
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
    assert all(hasattr(rl_weights, name) for name in rl_weights.__all__)
    assert rl_weights.rules.__all__ == [
        "FuseGateUp",
        "FuseQKV",
        "PadVocabulary",
        "TensorRule",
        "check_covered",
        "rules_for",
    ]


def test_importing_everything_imports_nothing_heavy():
    modules = "rl_weights, rl_weights.cli, rl_weights.testing"
    check = f"import {modules}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
