"""Prompts, conversations, loss masks, grading, packing and sample buffers for post-training language models."""

from rl_data.batch import Microbatch, TrainBatch
from rl_data.errors import DataError, RLDataError, SchemaVersionError
from rl_data.prompt import Prompt
from rl_data.sample import FinishReason, PolicyVersion, Sample, SampleGroup, VersionSpan

__all__ = [
    "DataError",
    "FinishReason",
    "Microbatch",
    "PolicyVersion",
    "Prompt",
    "RLDataError",
    "Sample",
    "SampleGroup",
    "SchemaVersionError",
    "TrainBatch",
    "VersionSpan",
]
