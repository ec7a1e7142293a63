"""How `pytest -n 2 tests` shares the tests among its processes: what starts the same things stays together."""

from xdist.scheduler import LoadScopeScheduling

# Minutes each: begun last, one of them would run while the other process has nothing left to do.
_LONGEST_FIRST = ("tests/recipes/test_resume.py", "tests/recipes/test_endings.py", "tests/recipes/test_quickstart.py")
# Files that share what a process starts once: trainer and engine of the `stack` fixture, parsers of foreign flags.
_SHARED_START = {
    "tests/contracts/test_protocols.py": "stack",
    "tests/parity/test_rollout_and_training.py": "stack",
    "tests/recipes/test_arguments.py": "parsers",
    "tests/recipes/test_bad_input.py": "parsers",
    "tests/recipes/test_presets_of_qwen3_4b.py": "parsers",
    "tests/recipes/test_settings.py": "parsers",
}


def file_of(nodeid: str) -> str:
    """The file that a test stands in."""
    return nodeid.split("::", 1)[0]


def place_in_order(nodeid: str) -> int:
    """Tests with smaller numbers begin earlier; those of one number stay in their order."""
    file = file_of(nodeid)
    return _LONGEST_FIRST.index(file) if file in _LONGEST_FIRST else len(_LONGEST_FIRST)


class BySharedStart(LoadScopeScheduling):
    """A file goes whole to one process, and so do the files of `_SHARED_START` together."""

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return _SHARED_START.get(file, file)
