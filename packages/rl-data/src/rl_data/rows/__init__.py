"""Data sets of rows behind one interface: JSON lines, parquet, Arrow and hub data sets, one file or many."""

from rl_data.rows.opening import open_rows
from rl_data.rows.row_file import RowFile, located

__all__ = ["RowFile", "located", "open_rows"]
