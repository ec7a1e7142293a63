"""Importing SGLang without what an engine does not need, which is most of the time that its start takes.

Nothing here changes what an engine computes: only libraries that it can do without stay out of it.
"""

import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

# Kernels for GPUs, and what SGLang and transformers import where it is installed, for work that no engine does: they
# take a third of the seconds. All are optional to their importers.
_UNUSED_ON_CPU = (
    "cutlass",
    "flashinfer",
    "megatron",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "torchao",
)
_ARCHITECTURE = re.compile(r"\w+ForCausalLM")
# Server arguments by which SGLang takes another class than the one that config.json names.
_OTHER_CLASS = re.compile(r"model_impl|json_model_override_args|quantization|speculative_\w+")
_DISABLED = "SGLANG_DISABLED_MODEL_ARCHS"


@contextlib.contextmanager
def collecting_later() -> Generator[None]:
    """For imports: makes garbage collection wait, and never look again at what is there after the block.

    Importing makes millions of objects that stay. Looking for garbage among them takes 2 of 13 s.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def hidden(*names: str) -> Generator[None]:
    """Makes libraries, if they are not loaded yet, look as if they were not installed."""
    added = [name for name in names if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(added))
    try:
        yield
    finally:
        for name in added:
            del modules[name]


@contextlib.contextmanager
def quick_distributions() -> Generator[None]:
    """For the import of transformers, which lists every file of every installed distribution: 0.7 s.

    It asks for the distributions of a few packages, which are found by their names. Goes when transformers does not
    call `importlib.metadata.packages_distributions` at its import (transformers/utils/import_utils.py).
    """
    listed = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = lambda: _Distributions(listed)
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = listed


class _Distributions(dict[str, list[str]]):
    """Package -> distributions that it is from, looked up when it is asked for."""

    def __init__(self, listed: Callable[[], Mapping[str, list[str]]]) -> None:
        super().__init__()
        self._listed = listed

    def __missing__(self, package: str) -> list[str]:
        try:
            names = [importlib.metadata.distribution(package).metadata["Name"]]
        except importlib.metadata.PackageNotFoundError:
            self.update(self._listed())
            if package not in self:
                raise KeyError(package) from None
            return self[package]
        self[package] = names
        return names


@contextlib.contextmanager
def light_imports_on_cpu() -> Generator[None]:
    """For the import of SGLang in a process that uses no GPU.

    Meanwhile `torch.compile` leaves functions as they are: compiling them with inductor takes longer than they ever
    run on a CPU, and loading inductor alone takes a second.
    """
    import torch

    def as_is(function: Callable[..., Any] | None = None, **_: object) -> Callable[..., Any]:
        return function if function is not None else as_is

    torch_: Any = torch
    compile_ = torch_.compile
    torch_.compile = as_is
    try:
        with hidden(*_UNUSED_ON_CPU):
            yield
    finally:
        torch_.compile = compile_


def leave_out_other_models(server_args: Mapping[str, object]) -> None:
    """Tells SGLang's processes, by its environment variable, to import the served model alone: 2 s for 200 others.

    Where it is not plain which of SGLang's modules has the model, all of them are imported, as ever.
    """
    if _DISABLED in os.environ or any(_OTHER_CLASS.fullmatch(name) for name in server_args):
        return
    architecture = _architecture(Path(str(server_args["model_path"])))
    spec = importlib.util.find_spec("sglang")
    if architecture is None or spec is None or not spec.submodule_search_locations:
        return
    folder = Path(spec.submodule_search_locations[0]) / "srt" / "models"
    definition = re.compile(rf"^class {architecture}\b", re.MULTILINE)
    modules = {path.stem: path.read_text() for path in folder.glob("*.py")}
    others = sorted(name for name, text in modules.items() if not definition.search(text))
    if len(others) < len(modules):
        os.environ[_DISABLED] = ",".join(others)


def _architecture(model_path: Path) -> str | None:
    """The class that the model's config.json names, if there is one, and it is plain what becomes of it."""
    try:
        config = json.loads((model_path / "config.json").read_text())
    except (OSError, ValueError):
        return None  # SGLang will say it better, or finds it on a hub
    match config:
        case {"quantization_config": _}:
            return None
        case {"architectures": [str(name)]} if _ARCHITECTURE.fullmatch(name):
            return name
        case _:
            return None
