"""Puts the page of a run together."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from recipes.arguments.sources import from_file
from recipes.errors import UsageError
from recipes.report.charts import make_figures
from recipes.report.lines import cut_note
from recipes.report.metrics import read_metrics
from recipes.report.samples import select_samples
from recipes.report.summary import summary_tiles
from recipes.report.tokens import TokenTexts
from recipes.run_folder import CONFIG_FILE, METRICS_FILE, SAMPLES_FILE, SUMMARY_FILE
from rl_data.json import JsonValue

_HERE = Path(__file__).parent
_PAGE = "report.html"


def write_report(run_dir: Path) -> Path:
    """Writes run_dir/report.html from the run's files and returns its path.

    The page needs no network and no other file. It reads metrics.jsonl, and where they are there samples.jsonl,
    summary.json, config.yaml and model/tokenizer.json, or until the run has ended that of --hf-checkpoint.

    Raises:
        UsageError: if metrics.jsonl is missing, or a file is not what it should be; no page is written then.
    """
    from plotly.offline import get_plotlyjs  # a megabyte of script that only the page needs

    if not run_dir.is_dir():
        raise UsageError(
            f"{run_dir}: expected the folder of a run, found {'a file' if run_dir.exists() else 'nothing'}"
        )
    metrics_file, samples_file, config_file = (run_dir / name for name in (METRICS_FILE, SAMPLES_FILE, CONFIG_FILE))
    figures = make_figures(read_metrics(metrics_file))
    samples = select_samples(samples_file, TokenTexts(_tokenizer_file(run_dir, config_file)))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("template.html.j2").render(
        title=run_dir.resolve().name,
        tiles=summary_tiles(_read_summary(run_dir / SUMMARY_FILE)),
        figures=figures,
        notes=[*cut_note(metrics_file), *cut_note(samples_file), *samples.notes],
        has_samples=bool(samples.steps),
        config=config_file.read_text() if config_file.is_file() else "",
        style=Markup((_HERE / "report.css").read_text()),
        script=Markup((_HERE / "report.js").read_text()),
        plotly=Markup(get_plotlyjs()),
        report_data=_embed({"figures": figures, "steps": samples.steps, "token_texts": samples.token_texts}),
    )
    path = run_dir / _PAGE
    path.write_text(page, encoding="utf-8")
    return path


def _tokenizer_file(run_dir: Path, config_file: Path) -> Path | None:
    """Of the run's final model, or until there is one, of the model that the run was started on."""
    folders = [run_dir / "model"]
    with suppress(UsageError):  # a page is written whatever the file holds, and shows it
        flags = from_file(config_file)
        folders += [Path(value) for given in flags if given.flag == "--hf-checkpoint" for value in given.values]
    return next((file for folder in folders if (file := folder / "tokenizer.json").is_file()), None)


def _read_summary(path: Path) -> Mapping[str, JsonValue]:
    if not path.is_file():
        return {}
    try:
        # Not msgspec's own parser: it refuses the NaN of a run that diverged.
        return msgspec.convert(json.loads(path.read_text()), dict[str, Any])
    except ValueError as error:
        raise UsageError(f"{path}: expected a JSON object: {error}") from error


def _embed(value: object) -> Markup:
    """JSON that can stand inside a script element: no `<`, so that no text in it ends the element or opens another."""
    text = msgspec.json.encode(value).decode()
    return Markup(re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text))
