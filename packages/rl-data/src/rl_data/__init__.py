"""Prompts, conversations, loss masks, grading, packing and sample buffers for post-training language models."""

from rl_data.batch import Microbatch, TrainBatch
from rl_data.buffer import SampleBuffer
from rl_data.chat import ConversationRenderer, RenderedConversation
from rl_data.conversations import ConversationDataConfig, ConversationSource
from rl_data.errors import DataError, RLDataError, SchemaVersionError
from rl_data.filters import DropIf, FilterResult, GroupFilter, NoFailures, ResponseLengths, RewardSpread, apply_filters
from rl_data.grading import Grade, GradeOutcome, GraderConfig, GraderPool
from rl_data.packing import LossReduction, pack, with_logprobs
from rl_data.prompt import Prompt
from rl_data.prompts import PromptDataConfig, PromptSource
from rl_data.sample import FinishReason, PolicyVersion, Sample, SampleGroup, VersionSpan
from rl_data.source import RowFate, RowNote
from rl_data.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "ConversationDataConfig",
    "ConversationRenderer",
    "ConversationSource",
    "DataError",
    "DropIf",
    "FilterResult",
    "FinishReason",
    "Grade",
    "GradeOutcome",
    "GraderConfig",
    "GraderPool",
    "GroupFilter",
    "LossReduction",
    "Microbatch",
    "NoFailures",
    "PolicyVersion",
    "Prompt",
    "PromptDataConfig",
    "PromptSource",
    "RLDataError",
    "RenderedConversation",
    "ResponseLengths",
    "RewardSpread",
    "RowFate",
    "RowNote",
    "Sample",
    "SampleBuffer",
    "SampleGroup",
    "SchemaVersionError",
    "Tokenizer",
    "TrainBatch",
    "VersionSpan",
    "apply_filters",
    "load_tokenizer",
    "pack",
    "with_logprobs",
]
