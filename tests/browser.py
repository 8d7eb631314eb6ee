"""A headless Chromium, and what every page must keep: nothing from elsewhere, no error."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PICTURES = Path(__file__).parents[1] / "build" / "screenshots"
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
WIDTHS = (820, 821, 1024, 1180, 1300, 1366, 1440, 1600, 1920)  # of screens, besides those
LOOKS = [("desk", False), ("desk", True), ("phone", False)]  # size, and whether it is dark


def chromium() -> str:
    """The browser's path; skips without one, and fails where CI must have it."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        told = "no Chromium on the PATH: pages cannot be opened"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    return found


@contextmanager
def started() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, size: str = "desk", dark: bool = False) -> Iterator[Any]:
    """A page of a file; at its end it must have had no error and asked for nothing else."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        accept_downloads=True,
    )
    page, errors, asked = context.new_page(), [], []
    page.on("console", lambda told: errors.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.resolve().as_uri())
    yield page
    context.close()
    elsewhere = [url for url in asked if url.split(":")[0] not in ("file", "data", "blob")]
    assert errors == [], "the page's script failed"
    assert elsewhere == [], "a page must work offline"


def picture(page: Any, name: str) -> Path:
    """Keeps a screenshot in build/screenshots, to be looked at."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(300)  # charts move into place
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    return path


def check_accessible(page: Any) -> None:
    """axe's rules of WCAG 2, A and AA."""
    from axe_playwright_python.sync_playwright import Axe

    rules = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21aa"]}}
    found = Axe().run(page, options=rules)
    wrong = [
        f"{rule['id']}: {node['html'][:150]}"
        for rule in found.response["violations"]
        for node in rule["nodes"][:3]
    ]
    assert wrong == [], "\n".join(wrong)


def check_fits(page: Any) -> None:
    """Nothing but tables scrolls sideways, and no ranking does."""
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"the page is {wide} pixels wider than the screen"
    check_rankings(page)


def check_rankings(page: Any) -> None:
    """Rankings that stand beside each other are seen whole."""
    cut = page.evaluate(
        "[...document.querySelectorAll('.two .scroll')]"
        ".map((table) => table.scrollWidth - table.clientWidth)"
    )
    assert all(pixels <= 0 for pixels in cut), (
        f"rankings are cut off by {cut} pixels at a width of {page.viewport_size['width']}"
    )


def look_through(browser: Any, path: Path, name: str, size: str, dark: bool) -> None:
    """Opens every view of a page, checks that it can be read, and keeps a picture of it."""
    with opened(browser, path, size, dark) as page:
        for at, tab in enumerate(page.get_by_role("tab").all()):
            tab.click()
            assert tab.get_attribute("aria-selected") == "true"
            page.wait_for_timeout(100)
            check_fits(page)
            if size == "desk":
                check_accessible(page)
            picture(page, f"{name}-{size}{'-dark' if dark else ''}-{at}")
            if (size, dark, at) == ("desk", False, 0):
                _check_widths(page)


def _check_widths(page: Any) -> None:
    own = page.viewport_size
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": own["height"]})
        check_rankings(page)
    page.set_viewport_size(own)
