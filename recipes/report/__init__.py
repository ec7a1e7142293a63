"""One self-contained HTML page about a run: curves, and its samples token by token."""

from recipes.report.page import write_report

__all__ = ["write_report"]
