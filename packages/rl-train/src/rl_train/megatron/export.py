"""The trainer's weights under their Hugging Face names, gathered from all ranks."""

# pyright: standard
# Megatron-Core is annotated in part only.

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from rl_data.json import JsonValue
from rl_train.megatron.model import module_of
from rl_train.megatron.parallel import pipeline_group, tensor_group
from rl_train.megatron.weights import global_names, rules_of
from rl_weights import TensorSpec
from rl_weights.rules import TensorRule


class MegatronTensorSource:
    """Satisfies `rl_weights.TensorSource`. Global rank 0 is the writer.

    Tensor-parallel parts and pipeline stages travel to it from the ranks of the first data-parallel copy, one tensor
    at a time. Reads the weights at the time of the iteration. Making one is collective.
    """

    def __init__(self, model: torch.nn.Module, model_config: Mapping[str, JsonValue]) -> None:
        module = module_of(model)
        self._rules = rules_of(module, model_config)
        self._weights = global_names(module)
        self._tp = tensor_group()
        self._pp = pipeline_group()
        self._is_first_copy = parallel_state.get_data_parallel_rank() == 0
        self._empty = next(iter(self._weights.values())).detach().new_empty(0)
        self._iteration: Iterator[tuple[str, Tensor]] | None = None
        names: list[list[str]] = [[]] * self._pp.size()
        dist.all_gather_object(names, list(self._weights), group=self._pp)
        # A tied output layer on the last stage has no rule; the embedding's is read where the first stage has it.
        self._stage_of = {name: stage for stage in reversed(range(len(names))) for name in names[stage]}

    @property
    def is_writer(self) -> bool:
        """True on global rank 0."""
        return dist.get_rank() == 0

    def tensor_specs(self) -> Sequence[TensorSpec]:
        """Name, dtype and shape of every tensor, in the order of `iter_tensors`; equal on every rank."""
        dtype = str(self._empty.dtype).removeprefix("torch.")
        return [
            (name, dtype, shape)
            for rule in self._rules
            for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True)
        ]

    def iter_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, whole, on the writer; empty ones elsewhere. Collective; see `finish`."""
        self._iteration = self._iterate()
        return self._iteration

    def finish(self) -> None:
        """Ends an iteration that its caller has left, so that the other ranks do not wait for this one."""
        if self._iteration is not None:
            for _ in self._iteration:
                pass

    @torch.no_grad()
    def _iterate(self) -> Iterator[tuple[str, Tensor]]:
        for rule in self._rules:
            whole = self._gather(rule)
            if whole is None:
                yield from ((name, self._empty) for name in rule.hf_names)
            else:
                yield from zip(rule.hf_names, rule.to_hf(whole), strict=True)

    def _gather(self, rule: TensorRule) -> Tensor | None:
        """The whole tensor on the writer, None elsewhere."""
        if not self._is_first_copy:
            return None
        stage, here = self._stage_of[rule.megatron_name], self._pp.rank()
        whole = self._gather_parts(rule) if here == stage else None
        if self._tp.rank() != 0:
            return None
        if here == stage != 0:
            assert whole is not None
            dist.send(whole.contiguous(), group=self._pp, group_dst=0)
            return None
        if here == 0 != stage:
            whole = self._empty.new_empty(rule.megatron_shape)
            dist.recv(whole, group=self._pp, group_src=stage)
        return whole

    def _gather_parts(self, rule: TensorRule) -> Tensor:
        weight = self._weights[rule.megatron_name].detach()
        if rule.tp_dim is None or self._tp.size() == 1:
            return weight
        parts = [torch.empty_like(weight) for _ in range(self._tp.size())]
        dist.all_gather(parts, weight.contiguous(), group=self._tp)
        return rule.unshard(parts)
