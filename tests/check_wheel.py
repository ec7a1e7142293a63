"""Run by `nox -s wheels` inside an environment that holds only the wheel: `python check_wheel.py rl_data`."""

import importlib
import importlib.metadata
import importlib.resources
import sys
from pathlib import Path

LICENSE = Path(__file__).parents[1] / "LICENSE"
HEAVY = {"sglang", "megatron", "ray"}


def main() -> None:
    """Imports every public name of the package and looks for what must and must not be there."""
    name = sys.argv[1]
    package = importlib.import_module(name)
    for public in package.__all__:
        getattr(package, public)
    errors: list[str] = []
    if not importlib.resources.files(name).joinpath("py.typed").is_file():
        errors.append("py.typed is not in the wheel")
    if LICENSE.read_text() not in _license_texts(name):
        errors.append("the licence is not in the wheel as the repository has it")
    loaded = sorted(HEAVY & set(sys.modules))
    if loaded:
        errors.append(f"importing it loads {loaded}")
    if name == "rl_data" and "torch" in sys.modules:
        errors.append("importing it loads torch")
    if errors:
        raise SystemExit(f"{name}: " + "; ".join(errors))
    sys.stdout.write(f"{name}: {len(package.__all__)} public names\n")


def _license_texts(name: str) -> list[str]:
    distribution = importlib.metadata.distribution(name.replace("_", "-"))
    files = distribution.metadata.get_all("License-File") or []
    return [distribution.read_text(f"licenses/{file}") or "" for file in files]


if __name__ == "__main__":
    main()
