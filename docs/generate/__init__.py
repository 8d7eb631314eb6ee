"""Sphinx extension: writes the pages that follow from the code and from measured results.

Methods from the table `docs/methods.toml`, the reference from the packages' public names, commands
from their parsers; all into `docs/_made`, before Sphinx looks for pages.
"""

from pathlib import Path
from typing import Any

from docs.generate.docstrings import as_rst
from docs.generate.pages import all_pages

MADE = Path(__file__).parents[1] / "_made"
BEFORE_NAPOLEON = 400


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", lambda _: write(MADE, all_pages()))
    app.connect("autodoc-process-docstring", _as_rst, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(folder: Path, pages: dict[str, str]) -> None:
    """Makes a folder hold these pages; those that stay as they are keep their date."""
    for old in folder.rglob("*.md"):
        if old.relative_to(folder).as_posix() not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _as_rst(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)
