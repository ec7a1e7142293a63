"""Model folders in Hugging Face format."""

from rl_weights.hf.reader import INDEX_FILE, SINGLE_FILE, HFCheckpoint, read_config

__all__ = ["INDEX_FILE", "SINGLE_FILE", "HFCheckpoint", "read_config"]
