"""Whether what was downloaded can be used: a model has its weights and its tokenizer, a data set has rows."""

import re
from pathlib import Path

import msgspec

from rl_data.errors import DataError
from rl_data.hub.catalog import HubRepo
from rl_data.rows import open_rows


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
"""The files of a vocabulary, in each form that is published."""
_NUMBERED = re.compile(r"-\d+-of-\d+\.safetensors$")


def check_model(folder: Path) -> str:
    """Says what is there, for a person.

    Raises:
        DataError: naming every file that is missing of the configuration, the tokenizer and the weights.
    """
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        missing.append(" or ".join("+".join(names) for names in _TOKENIZERS))
    weights = _weights_of(folder)
    missing += [name for name in weights if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: expected {', '.join(missing)} of a model, found {_names(folder)}")
    return f"{len(weights)} files of weights"


def _weights_of(folder: Path) -> list[str]:
    """The files of weights that there must be: those of the index or, without one, the one that is there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            return sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
        except msgspec.MsgspecError as error:
            raise DataError(f"{index}: not an index of weights: {error}") from error
    found = sorted(path.name for path in folder.glob("*.safetensors"))
    if any(_NUMBERED.search(name) for name in found):
        return [index.name]
    return found or ["*.safetensors"]


def check_data_set(folder: Path, repo: HubRepo) -> str:
    """Says what is there, for a person. A data set that is not in the catalog may be in a format that is not read.

    Raises:
        DataError: if a data set of the catalog cannot be read, or its rows lack a key.
    """
    try:
        rows = open_rows(str(folder))
        first = rows.row(0)
    except DataError as error:
        if repo.keys:
            raise
        return f"not a data set that this package reads: {error}"
    if missing := [key for key in repo.keys if key not in first]:
        raise DataError(f"{rows.where(0)}: expected keys {missing}, found keys {sorted(first)}")
    return f"{len(rows):,} rows with keys {', '.join(first)}"


def _names(folder: Path) -> str:
    return ", ".join(sorted(entry.name for entry in folder.iterdir() if entry.name[0] != ".")[:10]) or "nothing"
