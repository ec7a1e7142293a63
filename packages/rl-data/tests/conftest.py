import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import settings

from rl_data import Tokenizer
from rl_data.testing import tiny_tokenizer

# Cases are checked for what they give, not for how long one takes, which on a busy machine says nothing.
settings.register_profile("rl-data", deadline=None)
settings.load_profile("rl-data")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[Iterable[object]], str]:
    def write(rows: Iterable[object], name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(os.environ.get("RL_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data sets at {folder}; RL_SHARED_DATA names their folder")
    return folder
