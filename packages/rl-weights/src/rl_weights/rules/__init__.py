"""Tables that say, tensor by tensor, how Megatron's GPTModel and a Hugging Face model hold the same weights."""

from rl_weights.rules.families import check_covered, rules_for
from rl_weights.rules.rule import FuseGateUp, FuseQKV, PadVocabulary, TensorRule

__all__ = ["FuseGateUp", "FuseQKV", "PadVocabulary", "TensorRule", "check_covered", "rules_for"]
