"""Links between the pages lead somewhere, and the examples in them run when pasted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PATTERNS = ("*.md", "docs/**/*.md", "packages/*/README.md", "recipes/*.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
# An example that needs something of the reader's own says so in the line above it, which no page shows.
MARKER = re.compile(r"<!-- needs: [^\n]+ -->\n")
BLOCK = re.compile(rf"({MARKER.pattern})?```python\n(.*?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(match[2], id=f"{page.parent.name}-{number}")
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer(page.read_text()))
    if match[1] is None
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = [match.group(1) for match in LINK.finditer(page.read_text())]
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_python_example_runs_when_pasted(example: str, tmp_path: Path) -> None:
    script = tmp_path / "pasted.py"
    script.write_text(example)
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_an_example_needs_is_said_right_above_it(page: Path) -> None:
    text = page.read_text()
    assert len(MARKER.findall(text)) == sum(match[1] is not None for match in BLOCK.finditer(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_code_compiles_also_where_it_needs_something_of_the_readers_own(page: Path) -> None:
    for match in BLOCK.finditer(page.read_text()):
        compile(match[2], str(page), "exec")


def test_every_page_of_docs_is_in_the_navigation_of_the_site() -> None:
    listed = set(re.findall(r": (docs/\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")}


def test_every_package_has_an_example_that_runs() -> None:
    names = {str(example.id).rpartition("-")[0] for example in EXAMPLES}
    assert {path.name for path in ROOT.glob("packages/*")} <= names
