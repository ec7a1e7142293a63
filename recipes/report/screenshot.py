"""`python -m recipes.report.screenshot RUN_DIR OUT.png`: a picture of a run's report, for a page about it."""

import argparse
import shutil
import sys
from pathlib import Path

from recipes.console import StepConsole
from recipes.errors import UsageError

BROWSER_ARGUMENTS = (
    "--no-sandbox",  # Chromium refuses to start as root with it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_browser() -> str | None:
    """Path of Chromium on this machine, or None."""
    paths = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in paths if path is not None), None)


def take_screenshot(page_file: Path, picture: Path, *, width: int, height: int) -> None:
    """Writes the top `height` pixels of the page, in a window of `width` pixels, as PNG.

    Raises:
        UsageError: if the page or a browser is missing.
    """
    browser_file = find_browser()
    if browser_file is None:
        raise UsageError("expected Chromium on this machine, found none: apt-get install chromium")
    if not page_file.is_file():
        raise UsageError(f"{page_file}: expected a report, found no such file: python -m recipes.report RUN_DIR")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_file, args=list(BROWSER_ARGUMENTS))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(page_file.resolve().as_uri())
            page.wait_for_selector(".trace path")
            page.screenshot(path=picture)
        finally:
            browser.close()


def main() -> int:
    """Reads the flags, writes the picture, returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.report.screenshot", description="A picture of a report.")
    parser.add_argument("run_dir", type=Path, help="folder of the run, with report.html")
    parser.add_argument("out", type=Path, help="PNG file to write")
    parser.add_argument("--width", type=int, default=1280, help="pixels")
    parser.add_argument("--height", type=int, default=1560, help="pixels from the top of the page")
    flags = parser.parse_args()
    try:
        take_screenshot(flags.run_dir / "report.html", flags.out, width=flags.width, height=flags.height)
    except UsageError as error:
        parser.error(str(error))
    StepConsole().say(str(flags.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
