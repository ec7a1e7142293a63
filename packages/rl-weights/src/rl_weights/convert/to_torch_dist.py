"""Hugging Face to torch_dist, tensor by tensor, by one process or by several."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import torch

from rl_weights.checksum import checksum
from rl_weights.conversion_log import ConversionLog, ConvertReport, Progress
from rl_weights.convert.ranks import Ranks
from rl_weights.convert.wanted import FloatName, WantedValues
from rl_weights.dtypes import dtype_named, num_bytes
from rl_weights.errors import CheckpointError
from rl_weights.hf import HFCheckpoint
from rl_weights.hf.fp8 import Unquantized
from rl_weights.manifest import ManifestTensor, entries_of_files
from rl_weights.new_folder import new_folder
from rl_weights.protocols import TensorSpec
from rl_weights.rules import TensorRule, check_covered, rules_for
from rl_weights.rules.box import Box
from rl_weights.torch_dist.layout import Ownership, ParallelLayout
from rl_weights.torch_dist.names import RELEASE, TRACKER_FILE, StoredNames, TransformerImpl, extra_state_key
from rl_weights.torch_dist.writer import (
    COMMON_STATE_KEY,
    DATA_SUFFIX,
    PartToStore,
    StoredAt,
    StoredPart,
    common_state,
    rank_file,
    write_description,
    write_file,
)

DEFAULT_VOCAB_MULTIPLE = 128
"""Megatron's own default of make-vocab-size-divisible-by."""


def convert_hf_to_torch_dist(
    hf_checkpoint: Path | str,
    save: Path | str,
    *,
    make_vocab_size_divisible_by: int = DEFAULT_VOCAB_MULTIPLE,
    layout: ParallelLayout | None = None,
    dtype: FloatName | None = None,
    require_finite: bool = False,
    transformer_impl: TransformerImpl = "transformer_engine",
    ranks: Ranks | None = None,
    progress: Progress | None = None,
) -> ConvertReport:
    """Writes a torch_dist checkpoint (`save/release`) that Megatron loads at any parallel layout.

    Holds what is made of one tensor while it is written, and of the next one. With several ranks each writes what the
    ranks of its place in the layout hold, in a file of its own.

    Args:
        hf_checkpoint: model folder in Hugging Face format; weights of float8 with block scales are dequantised.
        save: folder to make; must not be there, or be empty.
        make_vocab_size_divisible_by: the embedding gets rows of zeros up to a multiple of this times the
            tensor-parallel size.
        layout: by which tensors are cut into parts; the model must be able to have it. One rank if None.
        dtype: what the weights are cast to; as they are if None.
        require_finite: whether a NaN or an infinity is refused.
        transformer_impl: of the Megatron that is to load the checkpoint; decides one name, and for experts alone.
        ranks: the processes that convert together; this one alone if None.
        progress: told of each part that this process writes.

    Raises:
        CheckpointError: for a folder that is incomplete, damaged or not covered by the rules. `save` is as it was.

    Example:
        >>> convert_hf_to_torch_dist("Qwen3-4B", "Qwen3-4B_torch_dist").num_tensors
        290
    """
    ranks, layout = ranks or Ranks(), layout or ParallelLayout()
    plans: list[_Plan] = []

    def plan() -> bytes:
        source = Unquantized(HFCheckpoint(Path(hf_checkpoint)))
        multiple = make_vocab_size_divisible_by * layout.tensor
        rules = rules_for(source.config, vocab_multiple=multiple, num_tensors=len(source.specs))
        wanted = WantedValues(dtype=dtype, require_finite=require_finite)
        plans.append(_Plan(source, rules, layout, wanted, transformer_impl, ranks))
        return b""

    ranks.gather(plan)
    return _run(plans[0], Path(save), ranks, progress)


class _RankOutcome(msgspec.Struct, frozen=True):
    """What a rank has written."""

    written: tuple[StoredAt, ...]
    entries: tuple[ManifestTensor, ...]


class _Plan:
    """What is to be written, and which part by this rank. Equal on every rank but for the latter.

    Raises:
        CheckpointError: if the model is not covered by the rules or cannot have the layout.
    """

    def __init__(
        self,
        source: Unquantized,
        rules: Sequence[TensorRule],
        layout: ParallelLayout,
        wanted: WantedValues,
        transformer_impl: TransformerImpl,
        ranks: Ranks,
    ) -> None:
        self._source, self._wanted = source, wanted
        check_covered(rules, source.specs, str(source.path))
        _check_shapes(rules, source.specs)
        names = StoredNames(rules, transformer_impl=transformer_impl)
        layout.check(rules, names.num_layers, names.num_experts)
        self.parts: list[StoredPart] = []
        """Of every tensor, on all ranks."""
        self._own: list[tuple[TensorRule, str, Box, StoredPart]] = []
        self.own_objects: dict[str, object] = {COMMON_STATE_KEY: dict(common_state(0))} if ranks.rank == 0 else {}
        self.num_own_bytes = 0
        self._held: dict[str, torch.Tensor] = {}
        """What was read for a tensor of which further parts are to be made, by its Hugging Face name."""
        ownership = Ownership(layout, ranks.size, names.num_layers, names.num_experts)
        for rule in rules:
            name = names.name(rule.megatron_name)
            place = names.place(name)
            row_sizes = names.row_sizes(place)
            dtype = wanted.spec(source.specs[rule.hf_names[0]])[1]
            for number, (tp_rank, box) in enumerate(layout.boxes(rule)):
                part = StoredPart.of(place.key, dtype, rule.megatron_shape, box, place.rows, row_sizes)
                self.parts.append(part)
                if ownership.take(rule, tp_rank, box, num_bytes(dtype, (1,))) != ranks.rank:
                    continue
                self._own.append((rule, name, box, part))
                self.num_own_bytes += num_bytes(dtype, box.shape)
                if number == 0 and (key := extra_state_key(place, row_sizes)) is not None:
                    self.own_objects[key] = None

    def own_parts(self, log: ConversionLog) -> list[PartToStore]:
        """What this rank writes. To be made in this order."""
        lasts = {rule.megatron_name: box for rule, _, box, _ in self._own}
        return [
            PartToStore(part, partial(self._make, rule, name, box, log, is_last=box is lasts[rule.megatron_name]))
            for rule, name, box, part in self._own
        ]

    def _make(self, rule: TensorRule, name: str, box: Box, log: ConversionLog, *, is_last: bool) -> torch.Tensor:
        if rule.tied_names and not any(box.offset):
            self._check_tied(rule)
        made = rule.make_box(self._read, box).contiguous()
        log.note(name, made, None if box.shape == rule.megatron_shape else box.offset)
        if is_last:
            self._held.clear()
        return made

    def _read(self, name: str) -> torch.Tensor:
        """The tensor as it is wanted, which is made once for all parts of what it becomes."""
        if name not in self._held:
            self._held[name] = self._wanted.apply(f"{self._source.files[name]}: {name}", self._source.read(name))
        return self._held[name]

    def _check_tied(self, rule: TensorRule) -> None:
        for tied in set(rule.tied_names) & set(self._source.specs):
            written = rule.hf_names[0]
            if checksum(self._source.read(tied)) != checksum(self._source.read(written)):
                where = self._source.files[tied]
                raise CheckpointError(f"{where}: config.json ties {tied} to {written}, but their values differ")


def _run(plan: _Plan, save: Path, ranks: Ranks, progress: Progress | None) -> ConvertReport:
    log = ConversionLog(plan.num_own_bytes, progress)
    with ExitStack() as stack:
        folder = Path(ranks.on_first(lambda: _made_folder(stack, save)))

        def write() -> bytes:
            file = folder / RELEASE / rank_file(ranks.rank)
            try:
                written = write_file(file, plan.own_objects, plan.own_parts(log), log.advance)
            except OSError as error:
                name = save / RELEASE / file.name
                raise CheckpointError(f"{name}: not written: {error}") from error
            return msgspec.json.encode(_RankOutcome(tuple(written), log.entries))

        outcomes = [msgspec.json.decode(content, type=_RankOutcome) for content in ranks.gather(write)]
        log.take_over([entry for outcome in outcomes for entry in outcome.entries])

        def finish() -> str:
            written = [at for outcome in outcomes for at in outcome.written]
            write_description(folder / RELEASE, plan.parts, written)
            objects = [entry for at in written if (entry := at.entry) is not None]
            log.manifest(entries_of_files(folder / RELEASE, but=DATA_SUFFIX), objects).write(folder / RELEASE)
            (folder / TRACKER_FILE).write_text(RELEASE)
            stack.close()
            return ""

        ranks.on_first(finish)
    return log.report()


def _made_folder(stack: ExitStack, save: Path) -> str:
    folder = stack.enter_context(new_folder(save))
    (folder / RELEASE).mkdir()
    return str(folder)


def _check_shapes(rules: Sequence[TensorRule], specs: Mapping[str, TensorSpec]) -> None:
    """Refuses wrong shapes and dtypes before anything is written."""
    for rule in rules:
        named = [specs[name] for name in rule.hf_names]
        rule.to_megatron([torch.empty(shape, dtype=dtype_named(d, n), device="meta") for n, d, shape in named])
