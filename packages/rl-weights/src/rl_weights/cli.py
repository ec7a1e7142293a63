"""The command `rl-weights`: convert, inspect, compare and verify checkpoints.

What needs torch is imported by the commands that need it, so that help, mistakes and `inspect` of a model folder answer
at once.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.filesize import decimal

from rl_weights.errors import CheckpointError, RLWeightsError
from rl_weights.inspect import Inspection, inspect_checkpoint
from rl_weights.progress_bar import bytes_bar, count_bar
from rl_weights.torchrun import is_alone, is_first_rank
from rl_weights.whole_flags import parse_whole_flags

if TYPE_CHECKING:
    from rl_weights.bench import ConversionBench
    from rl_weights.convert import ConvertReport

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_LAYOUT_FLAGS = {
    "tensor_model_parallel_size": "parts into which tensors are cut (default: 1)",
    "pipeline_model_parallel_size": "stages over which torchrun's ranks divide the layers (default: 1)",
    "expert_model_parallel_size": "ranks over which they divide the experts (default: 1)",
    "expert_tensor_parallel_size": "parts into which experts are cut (default: as other tensors)",
    "decoder_first_pipeline_num_layers": "layers of the first stage (default: as many as the others)",
    "decoder_last_pipeline_num_layers": "layers of the last stage (default: as many as the others)",
}
_TO_MEGATRON_ONLY = ("make_vocab_size_divisible_by", "transformer_impl", *_LAYOUT_FLAGS)
_TO_HF_ONLY = ("load", "max_shard_size")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code.

    0: done; for `diff`, equal; for `verify`, whole. 1: different, or not whole. 2: after one message about what the
    user can mend. 130: interrupted.
    """
    parser, by_name = _parser()
    arguments = parse_whole_flags(parser, by_name, argv)
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "convert": _convert,
        "inspect": _inspect,
        "diff": _diff,
        "verify": _verify,
        "bench": _bench,
    }
    try:
        code = commands[arguments.command](arguments)
        sys.stdout.flush()
    except RLWeightsError as error:
        if is_first_rank():  # which knows of every rank's error
            print(f"rl-weights: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rl-weights: interrupted; nothing was left behind", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _drop_output()
        return 0
    except OSError as error:
        print(f"rl-weights: {error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # the disk under it is full
            _drop_output()
        return 2
    return code


def _drop_output() -> None:
    """Nothing is flushed to standard output at exit, where it would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The whole, and that of each command."""
    parser = argparse.ArgumentParser(prog="rl-weights", description="Checkpoints of language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_convert(commands.add_parser("convert", help="Hugging Face to torch_dist (--save), or back (--save-hf)"))

    inspect = commands.add_parser("inspect", help="list tensors, shapes, dtypes and sizes")
    inspect.add_argument("path", help="a checkpoint of either format")
    inspect.add_argument("--json", action="store_true", help="print JSON")

    diff = commands.add_parser("diff", help="compare two checkpoints; exit code 1 if they differ")
    diff.add_argument("first", help="a checkpoint of either format")
    diff.add_argument("second", help="another, of either format")

    verify = commands.add_parser("verify", help="read everything and compare checksums; exit code 1 if it is not whole")
    verify.add_argument("path", help="a checkpoint of either format")
    verify.add_argument("--require-finite", action="store_true", help="refuse NaN and infinity")

    bench = commands.add_parser(
        "bench", help="time conversions there and back beside `cp -r`; exit code 1 if not exact"
    )
    bench.add_argument("--hf-checkpoint", required=True, metavar="DIR", help="model folder")
    bench.add_argument("--work", default=".", metavar="DIR", help="where to write, and then remove (default: here)")
    bench.add_argument("--json", action="store_true", help="print JSON")
    return parser, commands.choices


def _add_convert(convert: argparse.ArgumentParser) -> None:
    convert.add_argument(
        "--hf-checkpoint", required=True, metavar="DIR", help="model folder; with --save-hf its weights are not read"
    )
    direction = convert.add_mutually_exclusive_group(required=True)
    direction.add_argument("--save", metavar="DIR", help="write a torch_dist checkpoint there")
    direction.add_argument("--save-hf", metavar="DIR", help="write a model folder there, from --load")
    convert.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="cast to it (default: as they are)"
    )
    convert.add_argument("--require-finite", action="store_true", help="refuse NaN and infinity")
    to_megatron = convert.add_argument_group("with --save, also under torchrun, where each rank writes its own part")
    to_megatron.add_argument(
        "--make-vocab-size-divisible-by",
        type=int,
        metavar="N",
        help="pad the vocabulary to a multiple of N x tensor-parallel size (default: 128, as Megatron's)",
    )
    for name, what in _LAYOUT_FLAGS.items():
        to_megatron.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=what)
    to_megatron.add_argument(
        "--transformer-impl",
        choices=("transformer_engine", "local"),
        help="of the Megatron that is to load it; matters for experts alone (default: transformer_engine)",
    )
    to_hf = convert.add_argument_group("with --save-hf")
    to_hf.add_argument("--load", metavar="DIR", help="torch_dist checkpoint, or the folder of several: the latest")
    to_hf.add_argument("--max-shard-size", metavar="SIZE", help="of a safetensors file, such as 500MB (default: 5GB)")


def _convert(arguments: argparse.Namespace) -> int:
    is_to_hf = arguments.save_hf is not None
    for name in _TO_MEGATRON_ONLY if is_to_hf else _TO_HF_ONLY:
        if vars(arguments)[name] is not None:
            flag, direction = name.replace("_", "-"), "--save-hf" if is_to_hf else "--save"
            raise CheckpointError(f"--{flag}: has no meaning with {direction}")
    report = _convert_to_hf(arguments) if is_to_hf else _convert_to_megatron(arguments)
    if report is not None:
        speed = decimal(int(report.num_bytes / max(report.seconds, 1e-9)))
        print(
            f"{arguments.save_hf or arguments.save}: {report.num_tensors} tensors, {decimal(report.num_bytes)} in "
            f"{report.seconds:.1f} s ({speed}/s)"
        )
    return 0


def _convert_to_megatron(arguments: argparse.Namespace) -> "ConvertReport | None":
    """The report on rank 0, None on others; rank 0 also reports an error of any."""
    from rl_weights.convert import DEFAULT_VOCAB_MULTIPLE, convert_hf_to_torch_dist, ranks_of_torchrun
    from rl_weights.torch_dist.layout import ParallelLayout

    def given(value: int | None, default: int) -> int:
        return default if value is None else value

    layout = ParallelLayout(
        tensor=given(arguments.tensor_model_parallel_size, 1),
        pipeline=given(arguments.pipeline_model_parallel_size, 1),
        expert=given(arguments.expert_model_parallel_size, 1),
        expert_tensor=arguments.expert_tensor_parallel_size,
        first_stage_layers=arguments.decoder_first_pipeline_num_layers,
        last_stage_layers=arguments.decoder_last_pipeline_num_layers,
    )
    with ranks_of_torchrun() as ranks, bytes_bar("converting", is_shown=ranks.rank == 0) as progress:
        report = convert_hf_to_torch_dist(
            arguments.hf_checkpoint,
            arguments.save,
            make_vocab_size_divisible_by=given(arguments.make_vocab_size_divisible_by, DEFAULT_VOCAB_MULTIPLE),
            layout=layout,
            dtype=arguments.dtype,
            require_finite=arguments.require_finite,
            transformer_impl=arguments.transformer_impl or "transformer_engine",
            ranks=ranks,
            progress=progress,
        )
        return report if ranks.rank == 0 else None


def _convert_to_hf(arguments: argparse.Namespace) -> "ConvertReport":
    from rl_weights.convert import convert_torch_dist_to_hf
    from rl_weights.hf.writer import DEFAULT_SHARD_BYTES

    if arguments.load is None:
        raise CheckpointError("--load: expected with --save-hf, to name the torch_dist checkpoint")
    if not is_alone():
        raise CheckpointError("--save-hf: expected one process, not torchrun's several")
    size = arguments.max_shard_size
    with bytes_bar("converting") as progress:
        return convert_torch_dist_to_hf(
            arguments.load,
            arguments.hf_checkpoint,
            arguments.save_hf,
            max_shard_bytes=DEFAULT_SHARD_BYTES if size is None else _num_bytes(size),
            dtype=arguments.dtype,
            require_finite=arguments.require_finite,
            progress=progress,
        )


def _num_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)?", text.strip().upper())
    if match is None:
        raise CheckpointError(f"--max-shard-size: expected a number with a unit such as 500MB or 5GB, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _inspect(arguments: argparse.Namespace) -> int:
    inspection = inspect_checkpoint(arguments.path)
    if arguments.json:
        print(json.dumps(asdict(inspection), indent=1))
    else:
        _print_inspection(inspection)
    return 0


def _print_inspection(inspection: Inspection) -> None:
    rows = [("name", "dtype", "shape", "bytes", "parts")]
    rows += [
        (tensor.name, tensor.dtype, str(list(tensor.shape)), decimal(tensor.num_bytes), str(tensor.num_parts))
        for tensor in inspection.tensors
    ]
    name, dtype, shape, size, parts = (max(map(len, column)) for column in zip(*rows, strict=True))
    for row in rows:
        print(f"{row[0]:{name}}  {row[1]:{dtype}}  {row[2]:{shape}}  {row[3]:>{size}}  {row[4]:>{parts}}")
    layout = inspection.layout
    cut = (
        ""
        if layout is None
        else f"TP {layout.tensor} x PP {layout.pipeline} x EP {layout.expert} in {_count(layout.num_files, 'file')}, "
    )
    kind = inspection.architecture or ("release" if inspection.iteration is None else f"step {inspection.iteration}")
    print(
        f"{inspection.path}: {inspection.format}, {kind}, {cut}{inspection.num_parameters:,} parameters in "
        f"{decimal(inspection.num_model_bytes)}, other state {decimal(inspection.num_other_bytes)}, "
        f"{'with' if inspection.has_manifest else 'without'} checksums"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _diff(arguments: argparse.Namespace) -> int:
    from rl_weights.diff import diff_checkpoints

    with count_bar("comparing") as progress:
        difference = diff_checkpoints(arguments.first, arguments.second, progress=progress)
    for tensor in difference.tensors:
        numbers = "" if tensor.max_abs is None else f", max {tensor.max_abs:.3e}, mean {tensor.mean_abs:.3e}"
        print(f"{tensor.name}: {tensor.what}{numbers}")
    print(f"{difference.num_equal} tensors equal, {len(difference.tensors)} not")
    return 0 if difference.is_equal else 1


def _verify(arguments: argparse.Namespace) -> int:
    from rl_weights.verify import verify_checkpoint

    with count_bar("verifying") as progress:
        report = verify_checkpoint(arguments.path, require_finite=arguments.require_finite, progress=progress)
    for problem in report.problems:
        print(problem)
    if report.is_manifest_of_all:
        how = "checksums compared"
    elif report.has_manifest:
        how = "checksums of tensors compared, an older manifest has no others"
    else:
        how = "no checksums to compare with, only read"
    outcome = "whole" if report.is_whole else _count(len(report.problems), "problem")
    print(f"{arguments.path}: {report.num_tensors} tensors, {decimal(report.num_bytes)}, {how}: {outcome}")
    return 0 if report.is_whole else 1


def _bench(arguments: argparse.Namespace) -> int:
    from rl_weights.bench import bench_conversion

    bench = bench_conversion(arguments.hf_checkpoint, arguments.work)
    if arguments.json:
        print(json.dumps(asdict(bench), indent=1))
    else:
        _print_bench(arguments.hf_checkpoint, bench)
    return 0 if bench.is_exact else 1


def _print_bench(hf_checkpoint: str, bench: "ConversionBench") -> None:
    print(f"{hf_checkpoint}: {decimal(bench.num_bytes)}")
    for what, run, copy in (
        ("HF -> torch_dist", bench.to_torch_dist, bench.copy_hf),
        ("torch_dist -> HF", bench.to_hf, bench.copy_torch_dist),
    ):
        print(
            f"{what}: {run.seconds:.1f} s, flushed to the disk; peak memory {decimal(run.peak_bytes)}\n"
            f"  {run.seconds / copy.flushed_seconds:.2f} x cp -r and its flush ({copy.flushed_seconds:.1f} s), "
            f"{run.seconds / copy.seconds:.2f} x cp -r alone ({copy.seconds:.1f} s)"
        )
    print("the model that came back is equal to the bit" if bench.is_exact else "the model that came back differs")
