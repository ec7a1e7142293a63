"""The folders that a run takes weights from, held against the model's config.json before anything loads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from recipes.config import RunConfig
from recipes.errors import UsageError
from rl_data.json import JsonValue
from rl_train.errors import TrainConfigError
from rl_train.megatron.arguments import MegatronArguments
from rl_train.megatron.checkpoint_folder import TRACKER, latest_checkpoint
from rl_weights import CheckpointError, HFCheckpoint
from rl_weights.rules import TensorRule, rules_for


def check_weights(
    run: RunConfig, model_config: Mapping[str, JsonValue], *, has_engines: bool, has_trainer: bool = True
) -> None:
    """Checks that every folder that weights are read from holds each tensor of the model, in its shape.

    Only headers are read, and of torch_dist checkpoints no more than that they are there: the rest needs torch.

    Args:
        run: the folders. Weights in --hf-checkpoint's are not needed where a run without engines starts from others.
        model_config: the model's config.json.
        has_engines: whether engines are started on --hf-checkpoint.
        has_trainer: whether a trainer is, which reads the reference policy's weights.

    Raises:
        CheckpointError: for an architecture without rules.
        UsageError: naming the flag, and the file or the first tensor that is missing or has another shape.
    """
    rules = rules_for(model_config)
    if has_engines or run.first_weights == run.hf_checkpoint:
        _check("--hf-checkpoint", run.hf_checkpoint, rules)
    if run.load is not None and not run.loads_what_it_saved:
        _check("--load", run.load, rules)
    if run.ref_load is not None and (has_trainer or run.first_weights == run.ref_load):
        _check("--ref-load", run.ref_load, rules)


def _check(flag: str, folder: Path, rules: Sequence[TensorRule]) -> None:
    may_be_torch_dist = flag != "--hf-checkpoint"
    try:
        if may_be_torch_dist and latest_checkpoint(folder) is not None:
            return
        specs = HFCheckpoint(folder).specs
    except TrainConfigError as error:
        raise UsageError(f"{flag}: {error}") from error
    except CheckpointError as error:
        nor = f" (nor is there Megatron's {TRACKER})" if may_be_torch_dist else ""
        raise UsageError(f"{flag}: {error}{nor}") from error
    for rule in rules:
        for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True):
            if name not in specs:
                raise UsageError(f"{flag} {folder}: no tensor {name} among its {len(specs)}")
            _, _, found = specs[name]
            if found != shape:
                raise UsageError(
                    f"{flag} {folder}: {name}: by config.json expected shape {list(shape)}, got {list(found)}"
                )


def precision_note(model_config: Mapping[str, JsonValue], megatron: MegatronArguments) -> str | None:
    """What a user should know who trains a model in float32 that config.json says to be of 16 bits; None otherwise."""
    stored = model_config.get("dtype") or model_config.get("torch_dtype")
    if stored not in ("bfloat16", "float16") or megatron.values["bf16"]:
        return None
    return f"training in float32, though config.json says {stored}: --bf16 computes in bfloat16"
