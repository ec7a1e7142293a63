"""Links between the pages lead somewhere, and the examples in the READMEs run when pasted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PATTERNS = ("*.md", "docs/**/*.md", "packages/*/README.md", "recipes/*.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
READMES = [page for page in PAGES if page.name == "README.md" and "packages" in page.parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = [match.group(1) for match in LINK.finditer(page.read_text())]
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.parent.name)
def test_the_python_example_of_a_package_runs_when_pasted(page: Path, tmp_path: Path) -> None:
    blocks = BLOCK.findall(page.read_text())
    assert blocks, f"{page}: expected a python example"
    script = tmp_path / "pasted.py"
    script.write_text(blocks[0])
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
