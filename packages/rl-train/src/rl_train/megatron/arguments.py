"""Megatron's flags, read by Megatron's own parser, completed from config.json and frozen."""

import argparse
import contextlib
import io
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from rl_data.json import JsonValue
from rl_train.errors import TrainConfigError
from rl_train.megatron.flags_honoured import HONOURED, LIMITED
from rl_train.megatron.flags_model import ShapeValue, shape_of
from rl_train.megatron.flags_refused import REFUSED
from rl_train.megatron.flags_values import from_json, to_json

# Where we differ from Megatron's defaults; a flag given by the user wins.
_DEFAULTS: Mapping[str, JsonValue] = {
    "lr": 1e-6,
    # The vocabulary is padded no further than to a multiple of the tensor-parallel size.
    "make_vocab_size_divisible_by": 1,
}
# What Megatron's validation sets or leaves otherwise, and no flag that is taken here says.
_AFTER_VALIDATION: Mapping[str, JsonValue] = {
    # Packed micro-batches differ in length, which pipeline stages must expect.
    "variable_seq_lengths": True,
    # The default refuses variable lengths, even in a model without experts.
    "moe_token_dispatcher_type": "alltoall",
}
# Megatron recomputes layernorm by code that needs Transformer Engine; the other modules belong to layers not offered.
_RECOMPUTABLE = frozenset({"core_attn", "mlp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MegatronArguments:
    """What Megatron's functions need to know, as plain values: it can be pickled and written as JSON.

    Batch sizes in `values` are placeholders (one packed micro-batch), because batches arrive packed; `seq_length` is
    the model's longest sequence.
    """

    argv: tuple[str, ...]
    """The words that were parsed."""
    explicit: frozenset[str]
    """Flags that the user gave, with their dashes, even if at their default."""
    values: Mapping[str, JsonValue]
    """Every value of Megatron's namespace after its own validation, by its name there, as JSON."""

    def namespace(self) -> argparse.Namespace:
        """A fresh namespace for Megatron's own functions, such as `core_transformer_config_from_args`."""
        return argparse.Namespace(**{name: from_json(value) for name, value in self.values.items()})

    @property
    def model_parallel_size(self) -> int:
        """Ranks that hold one copy of the model together: tensor times pipeline parallel size."""
        tensor, pipeline = self.values["tensor_model_parallel_size"], self.values["pipeline_model_parallel_size"]
        assert isinstance(tensor, int)
        assert isinstance(pipeline, int)
        return tensor * pipeline

    def check_recompute_policy(self, policy: str) -> None:
        """Does nothing unless `MegatronTrainerConfig.recompute_policy` and Megatron's flags both want to decide.

        Raises:
            TrainConfigError: then.
        """
        granularity = self.values["recompute_granularity"]
        if granularity is not None and policy != "auto":
            raise TrainConfigError(
                f"recompute_policy {policy}: expected auto beside --recompute-granularity {granularity}, which decides"
            )

    def as_json(self) -> dict[str, JsonValue]:
        """The flags that were given and every resolved value."""
        return {"explicit": [*sorted(self.explicit)], "values": dict(self.values)}


def parse_megatron_args(
    argv: Sequence[str],
    *,
    model_config: Mapping[str, JsonValue],
    world_size: int,
    train_iters: int | None = None,
    where: str = "config.json",
) -> MegatronArguments:
    """Reads Megatron's flags for one model on `world_size` trainer ranks. Imports Megatron, which takes seconds.

    Args:
        argv: the flags with their values, for example ["--lr", "1e-6", "--bf16"].
        model_config: the model's config.json, which fixes the shape.
        world_size: number of trainer ranks.
        train_iters: optimizer steps of the whole run, over which the learning rate decays, if known by now.
        where: how messages call config.json, for example "config.json of /models/Qwen3-4B".

    Raises:
        TrainConfigError: for an unknown or refused flag, a bad value, a flag that contradicts config.json or that this
            trainer cannot honour, and for parallel sizes that do not fit the ranks or the model.
    """
    explicit = _check_names(argv)
    shape = shape_of(model_config, where=where)
    args = _parse(argv)
    _apply_limits(args, explicit)
    _apply_shape(args, explicit, shape, where)
    for dest, value in _DEFAULTS.items():
        if "--" + dest.replace("_", "-") not in explicit:
            setattr(args, dest, value)
    _check_sizes(args, world_size, where)
    _check_recompute(args, explicit)
    _validate(args, explicit, world_size, train_iters)
    return MegatronArguments(
        argv=tuple(argv),
        explicit=explicit,
        values={name: to_json(name, value) for name, value in sorted(vars(args).items())},
    )


def _check_names(argv: Sequence[str]) -> frozenset[str]:
    given = frozenset(word.split("=", 1)[0] for word in argv if word.startswith("--"))
    for flag in sorted(given):
        if flag in REFUSED:
            raise TrainConfigError(f"{flag}: this Megatron flag is not taken: {REFUSED[flag]}")
        if flag not in HONOURED:
            raise TrainConfigError(f"{flag}: Megatron has no such flag")
    return given


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise TrainConfigError(message.removeprefix("argument "))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    # Megatron warns about accelerators that are not installed.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.training.arguments import add_megatron_arguments

        parser = _Parser(allow_abbrev=False, add_help=False)
        add_megatron_arguments(parser)
    try:
        args, extra = parser.parse_known_args(list(argv))
    except (AssertionError, KeyError) as error:  # raised by the type functions of some flags
        raise TrainConfigError(f"{' '.join(argv)}: one of these values is not known to Megatron: {error}") from error
    if extra:
        raise TrainConfigError("{}: unexpected value {!r}".format(*_first_left_over(parser, argv)))
    return args


def _first_left_over(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[str, str]:
    """The first word that no flag takes, and the flag before it."""
    starts = [place for place, word in enumerate(argv) if word.startswith("--")]
    if starts[:1] != [0]:
        return "Megatron", argv[0]
    for start, stop in pairwise([*starts, len(argv)]):
        _, extra = parser.parse_known_args(argv[start:stop])
        if extra:
            return argv[start].split("=", 1)[0], extra[0]
    raise AssertionError(f"together, and not one by one, flags leave words over: {argv}")


def _apply_limits(args: argparse.Namespace, explicit: frozenset[str]) -> None:
    """Sets what this trainer fixes, and refuses flags that want it otherwise."""
    for flag, limit in LIMITED.items():
        given = vars(args)[limit.dest]
        plain = given if isinstance(given, bool | int | float | str) else getattr(given, "name", given)
        if flag in explicit and plain != limit.value and plain not in limit.also:
            raise TrainConfigError(f"{flag} {plain}: expected {limit.value}: {limit.reason}")
        if flag not in explicit or isinstance(given, bool):
            setattr(args, limit.dest, _like(given, limit.value))


def _like(given: object, value: bool | int | float | str) -> object:
    """The value as the enumeration member that Megatron has there, if it has one."""
    members = getattr(type(given), "__members__", None)
    return value if members is None or isinstance(given, str) else members[str(value)]


def _apply_shape(args: argparse.Namespace, explicit: frozenset[str], shape: Sequence[ShapeValue], where: str) -> None:
    for flag, dest, value, source in shape:
        given = vars(args)[dest]
        if flag in explicit and given != value:
            shown = flag if isinstance(given, bool) else f"{flag} {given}"
            raise TrainConfigError(f"{shown}: {where} says {source}")
        setattr(args, dest, value)


def _check_sizes(args: argparse.Namespace, world_size: int, where: str) -> None:
    tensor, pipeline = args.tensor_model_parallel_size, args.pipeline_model_parallel_size
    tp, pp = f"--tensor-model-parallel-size {tensor}", f"--pipeline-model-parallel-size {pipeline}"
    if tensor < 1 or pipeline < 1:
        raise TrainConfigError(f"{tp} {pp}: expected positive sizes")
    if world_size % (tensor * pipeline):
        raise TrainConfigError(f"{tp} and {pp}: their product {tensor * pipeline} does not divide {world_size} ranks")
    for dest in ("num_attention_heads", "num_query_groups", "ffn_hidden_size"):
        if vars(args)[dest] % tensor:
            raise TrainConfigError(f"{tp}: it does not divide {dest} {vars(args)[dest]} of {where}")
    if args.num_layers % pipeline:
        raise TrainConfigError(f"{pp}: it does not divide num_layers {args.num_layers} of {where}")
    # As Megatron has it: there is nothing to split.
    args.sequence_parallel = args.sequence_parallel and tensor > 1
    if args.make_vocab_size_divisible_by < 1:
        raise TrainConfigError(
            f"--make-vocab-size-divisible-by {args.make_vocab_size_divisible_by}: expected a positive number"
        )
    divisor, vocab_size = args.make_vocab_size_divisible_by, args.vocab_size
    rows_of_rank = -(-vocab_size // (divisor * tensor)) * divisor
    if rows_of_rank * (tensor - 1) >= vocab_size:
        raise TrainConfigError(
            f"--make-vocab-size-divisible-by {divisor} and {tp}: the last tensor-parallel rank would have nothing but "
            f"padding, because each has {rows_of_rank} rows of the vocabulary of {vocab_size} in {where}"
        )
    if not 0 <= args.min_lr <= args.lr:
        raise TrainConfigError(f"--lr {args.lr} and --min-lr {args.min_lr}: expected 0 <= min-lr <= lr")


def _check_recompute(args: argparse.Namespace, explicit: frozenset[str]) -> None:
    refused = set(args.recompute_modules or ()) - _RECOMPUTABLE
    if refused:
        raise TrainConfigError(
            f"--recompute-modules {' '.join(sorted(refused))}: expected modules among "
            f"{', '.join(sorted(_RECOMPUTABLE))}: Megatron recomputes no others without Transformer Engine"
        )
    granularity = "selective" if args.recompute_activations else args.recompute_granularity
    effective = {
        None: set[str](),
        "selective": {"--recompute-modules"},
        "full": {"--recompute-method", "--recompute-num-layers"},
    }[granularity]
    for flag in ("--recompute-method", "--recompute-num-layers", "--recompute-modules"):
        if flag in explicit and flag not in effective:
            raise TrainConfigError(f"{flag}: it has no effect with --recompute-granularity {granularity}")
    if granularity == "full" and (args.recompute_method is None or not args.recompute_num_layers):
        raise TrainConfigError(
            "--recompute-granularity full: it needs --recompute-method and --recompute-num-layers of at least 1, "
            f"got {args.recompute_method} and {args.recompute_num_layers}"
        )


def _validate(args: argparse.Namespace, explicit: frozenset[str], world_size: int, train_iters: int | None) -> None:
    """Megatron's own validation, which also derives values.

    It speaks to the terminal and may change what the user asked for with no more than a warning; here that is an error.
    """
    from megatron.training.arguments import validate_args  # pyright: ignore[reportUnknownVariableType]  it has no types
    from megatron.training.vocab_utils import calculate_padded_vocab_size

    args.rank, args.local_rank, args.world_size = 0, 0, world_size
    args.micro_batch_size, args.global_batch_size = 1, None
    args.seq_length, args.train_iters = args.max_position_embeddings, train_iters
    before = {name: value for name, value in vars(args).items() if "--" + name.replace("_", "-") in explicit}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), _any_device():
        warnings.simplefilter("ignore")
        try:
            validate_args(args)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise TrainConfigError(f"Megatron refuses its flags {' '.join(sorted(explicit))}: {error}") from error
        args.padded_vocab_size = calculate_padded_vocab_size(
            args.vocab_size, args.make_vocab_size_divisible_by, args.tensor_model_parallel_size
        )
    for name, value in _AFTER_VALIDATION.items():
        setattr(args, name, value)
    for name, value in before.items():
        if name in vars(args) and vars(args)[name] != value:
            flag = "--" + name.replace("_", "-")
            raise TrainConfigError(f"{flag} {value}: Megatron would change it to {vars(args)[name]}")


@contextlib.contextmanager
def _any_device() -> Generator[None]:
    """Validation without a GPU.

    Megatron asks the GPU for its generation only to demand CUDA_DEVICE_MAX_CONNECTIONS=1 in this process on those
    before Blackwell. The flags are read in a process that has no GPU; the trainer's ranks set the variable. Goes when
    `validate_args` takes the device as an argument.
    """
    from megatron.training import arguments

    real = arguments.get_device_arch_version
    arguments.get_device_arch_version = lambda: 10
    try:
        yield
    finally:
        arguments.get_device_arch_version = real
