"""What a run says of rows that it will skip."""

from collections.abc import Sequence

from recipes.console import StepConsole
from recipes.run_folder import ROWS_FILE, RunFolder
from rl_data import RowNote

_NUM_SHOWN = 5


def tell_bad_rows(notes: Sequence[RowNote], folder: RunFolder, console: StepConsole, *, is_resumed: bool) -> None:
    """Says how many rows are bad, shows the first, and lists all as those of step 0."""
    if not is_resumed:  # else they are listed already
        folder.list_rows_anew(notes)
    if not notes:
        return
    console.say(f"{len(notes)} bad rows are skipped; {folder.path / ROWS_FILE} lists them")
    for note in notes[:_NUM_SHOWN]:
        console.say(f"  {note.message}")
