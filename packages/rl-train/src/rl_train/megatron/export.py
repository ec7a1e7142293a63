"""The trainer's weights under their Hugging Face names, gathered from all ranks."""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from rl_data.json import JsonValue
from rl_weights.protocols import TensorSpec
from rl_weights.rules import rules_for
from torch import Tensor

from rl_train.megatron.model import module_of
from rl_train.megatron.weights import _EMBEDDING, _OUTPUT, global_names

_NOT_HERE: tuple[int, ...] = ()


class MegatronTensorSource:
    """Satisfies `rl_weights.TensorSource`. Global rank 0 is the writer.

    Tensor-parallel parts and pipeline stages travel to it from the ranks of the first data-parallel copy, one tensor
    at a time. Reads the weights at the time of the iteration. Making one is collective.
    """

    def __init__(self, model: torch.nn.Module, model_config: Mapping[str, JsonValue]) -> None:
        module = module_of(model)
        self._rules = rules_for(model_config)
        self._weights = global_names(module)
        self._vocab_size = int(model_config["vocab_size"])  # type: ignore[arg-type]
        self._tp = parallel_state.get_tensor_model_parallel_group()
        self._pp = parallel_state.get_pipeline_model_parallel_group()
        self._is_first_copy = parallel_state.get_data_parallel_rank() == 0
        self._dtype = module.config.params_dtype
        self._device = next(iter(self._weights.values())).device
        shapes: list[dict[str, tuple[int, ...]] | None] = [None] * self._pp.size()
        dist.all_gather_object(
            shapes, {name: tuple(weight.shape) for name, weight in self._weights.items()}, group=self._pp
        )
        self._stage_of: dict[str, int] = {}
        self._shape_of: dict[str, tuple[int, ...]] = {}
        for stage, on_stage in enumerate(shapes):
            assert on_stage is not None
            for name, shape in on_stage.items():
                if name not in self._stage_of:
                    self._stage_of[name], self._shape_of[name] = stage, shape

    @property
    def is_writer(self) -> bool:
        """True on global rank 0."""
        return dist.get_rank() == 0

    def tensor_specs(self) -> Sequence[TensorSpec]:
        """Name, dtype and shape of every tensor, in the order of `iter_tensors`; equal on every rank."""
        dtype = str(self._dtype).removeprefix("torch.")
        specs: list[TensorSpec] = []
        for rule in self._rules:
            part = torch.empty(self._shape_of[rule.megatron_name], dtype=self._dtype, device="meta")
            whole = self._without_padding(rule.megatron_name, rule.unshard([part] * self._tp.size()))
            for name, tensor in zip(rule.hf_names, rule.to_hf(whole), strict=True):
                specs.append((name, dtype, tuple(tensor.shape)))
        return specs

    @torch.no_grad()
    def iter_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, whole, on the writer; empty ones elsewhere. Collective."""
        empty = torch.empty(0, dtype=self._dtype, device=self._device)
        for rule in self._rules:
            whole = self._gather(rule.megatron_name, rule.unshard) if self._is_first_copy else None
            if whole is None:
                yield from ((name, empty) for name in rule.hf_names)
            else:
                whole = self._without_padding(rule.megatron_name, whole)
                yield from zip(rule.hf_names, rule.to_hf(whole), strict=True)

    def _gather(self, name: str, unshard: "Unshard") -> Tensor | None:
        """The whole tensor on the writer, None elsewhere."""
        stage, here = self._stage_of[name], self._pp.rank()
        whole: Tensor | None = None
        if here == stage:
            weight = self._weights[name].detach()
            parts = [torch.empty_like(weight) for _ in range(self._tp.size())]
            dist.all_gather(parts, weight.contiguous(), group=self._tp)
            whole = unshard(parts)
        if stage == 0:
            return whole if self.is_writer else None
        if self._tp.rank() != 0:
            return None
        if here == stage:
            assert whole is not None
            dist.send(whole.contiguous(), group=self._pp, group_dst=0)
            return None
        if here != 0:
            return None
        part = torch.empty(self._shape_of[name], dtype=self._dtype, device="meta")
        whole = torch.empty(unshard([part] * self._tp.size()).shape, dtype=self._dtype, device=self._device)
        dist.recv(whole, group=self._pp, group_src=stage)
        return whole

    def _without_padding(self, name: str, whole: Tensor) -> Tensor:
        return whole[: self._vocab_size] if name in (_EMBEDDING, _OUTPUT) else whole
