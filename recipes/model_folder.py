"""The model folder that a run starts from, held against its own config.json before anything loads it."""

from collections.abc import Mapping
from pathlib import Path

from recipes.errors import UsageError
from rl_data.json import JsonValue
from rl_train.megatron.arguments import MegatronArguments
from rl_weights import HFCheckpoint
from rl_weights.rules import rules_for


def check_weights(folder: Path, model_config: Mapping[str, JsonValue]) -> None:
    """Checks that the folder holds every tensor of the model, in its shape. Only headers are read.

    Raises:
        CheckpointError: for an architecture without rules, and for files that are missing or damaged.
        UsageError: naming the first tensor that is missing or has another shape.
    """
    rules = rules_for(model_config)
    specs = HFCheckpoint(folder).specs
    for rule in rules:
        for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True):
            if name not in specs:
                raise UsageError(f"--hf-checkpoint {folder}: no tensor {name} among its {len(specs)}")
            _, _, found = specs[name]
            if found != shape:
                raise UsageError(
                    f"--hf-checkpoint {folder}: {name}: by its config.json expected shape {list(shape)}, "
                    f"got {list(found)}"
                )


def precision_note(model_config: Mapping[str, JsonValue], megatron: MegatronArguments) -> str | None:
    """What a user should know who trains a model in float32 that config.json says to be of 16 bits; None otherwise."""
    stored = model_config.get("dtype") or model_config.get("torch_dtype")
    if stored not in ("bfloat16", "float16") or megatron.values["bf16"]:
        return None
    return f"training in float32, though config.json says {stored}: --bf16 computes in bfloat16"
