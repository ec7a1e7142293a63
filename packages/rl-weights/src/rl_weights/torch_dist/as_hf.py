"""A torch_dist checkpoint seen under Hugging Face names."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from rl_weights.errors import CheckpointError
from rl_weights.json_value import JsonValue
from rl_weights.protocols import TensorSpec
from rl_weights.rules import TensorRule, rules_for
from rl_weights.torch_dist.names import StoredNames, is_of_model
from rl_weights.torch_dist.reader import TorchDistCheckpoint

_MAX_NAMES_SHOWN = 5


class TorchDistAsHF:
    """The model's tensors of a torch_dist checkpoint, as a Hugging Face folder would hold them.

    Args:
        source: a release or a training checkpoint.
        config: the model's config.json.

    Raises:
        CheckpointError: naming a tensor that is missing, has another shape, or that no rule covers.
    """

    def __init__(self, source: TorchDistCheckpoint, config: Mapping[str, JsonValue]) -> None:
        self.path = source.path
        self._source = source
        rules = rules_for(config, num_tensors=len(source.specs))
        self._stored = _stored_names(rules, source.specs)
        _check_stored(self._stored.values(), source.specs, source.path)
        self._rule_of = {name: rule for rule in rules for name in rule.hf_names}
        self.specs: dict[str, TensorSpec] = {spec[0]: spec for rule in rules for spec in self._specs_of(rule)}
        """Name, dtype and shape of every tensor, in the order of the layers."""
        self._last: tuple[TensorRule, dict[str, torch.Tensor]] | None = None

    def read(self, name: str) -> torch.Tensor:
        """The tensor of that Hugging Face name. Tensors that are fused are best read one after another.

        Raises:
            CheckpointError: naming the file, if it is truncated or damaged.
        """
        rule = self._rule_of[name]
        if (box := rule.hf_box(rule.hf_names.index(name))) is not None:
            return self._source.read(self._stored[rule.megatron_name], box)
        if self._last is None or self._last[0] is not rule:
            parts = rule.to_hf(self._source.read(self._stored[rule.megatron_name]))
            self._last = rule, dict(zip(rule.hf_names, parts, strict=True))
        return self._last[1][name]

    def iter_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, in the order of `specs`."""
        return ((name, self.read(name)) for name in self.specs)

    def _specs_of(self, rule: TensorRule) -> list[TensorSpec]:
        _, dtype, shape = self._source.specs[self._stored[rule.megatron_name]]
        parts = rule.to_hf(torch.empty(shape, device="meta"))
        return [(name, dtype, tuple(part.shape)) for name, part in zip(rule.hf_names, parts, strict=True)]


def _stored_names(rules: Sequence[TensorRule], names: Collection[str]) -> dict[str, str]:
    """The stored name of every parameter, as the one or the other of Megatron's layer implementations gives it."""
    by_engine, by_local = StoredNames(rules), StoredNames(rules, transformer_impl="local")
    stored = {rule.megatron_name: by_engine.name(rule.megatron_name) for rule in rules}
    others = {rule.megatron_name: by_local.name(rule.megatron_name) for rule in rules}
    return {ours: name if name in names or others[ours] not in names else others[ours] for ours, name in stored.items()}


def _check_stored(needed: Collection[str], names: Collection[str], where: Path) -> None:
    of_model = {name for name in names if is_of_model(name)}
    if missing := sorted(set(needed) - of_model):
        shown = ", ".join(missing[:_MAX_NAMES_SHOWN])
        raise CheckpointError(f"{where}: {len(missing)} of the model's {len(needed)} tensors are missing: {shown}")
    if unknown := sorted(of_model - set(needed)):
        shown = ", ".join(unknown[:_MAX_NAMES_SHOWN])
        raise CheckpointError(f"{where}: no rule covers {len(unknown)} tensors: {shown}")
