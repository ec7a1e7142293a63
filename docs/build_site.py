"""The site: `python docs/build_site.py` makes site/ from the pages of the whole repository, without the network.

Pages lie all over the repository, and MkDocs wants them in one folder: they are copied to build/pages under the same
paths, so that links between them hold. Links to what is no page (a folder, a source file) become their text.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGE = ROOT / "build" / "pages"
PATTERNS = ("*.md", "docs/**/*.md", "packages/*/*.md", "recipes/*.md", "bench/*.md")
IMAGES = ("docs/**/*.png",)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def main() -> int:
    """Builds the site; returns the exit code, which is not 0 if there was a warning."""
    stage()
    # Not --quiet: a warning that is not said does not count in strict mode either.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(ROOT / "mkdocs.yml")]
    # Material's notice about MkDocs 2 is no warning about these pages.
    return subprocess.run(command, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}).returncode


def stage() -> None:
    """Copies pages and images, and nothing else, to where MkDocs looks for them."""
    shutil.rmtree(STAGE, ignore_errors=True)
    pages = {path for pattern in PATTERNS for path in ROOT.glob(pattern)}
    images = {path for pattern in IMAGES for path in ROOT.glob(pattern)}
    for path in pages | images:
        copy = STAGE / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path in pages:
            copy.write_text(_with_links_to(pages | images, path))
        else:
            shutil.copyfile(path, copy)


def _with_links_to(known: set[Path], page: Path) -> str:
    def link(match: re.Match[str]) -> str:
        text, target = match[1], (page.parent / match[2]).resolve()
        # A target that is nowhere stays, for MkDocs to complain of.
        return text if "://" not in match[2] and target.exists() and target not in known else match[0]

    return _LINK.sub(link, page.read_text())


if __name__ == "__main__":
    sys.exit(main())
