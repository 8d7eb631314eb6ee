"""The README's table of support, written from the tables of the zoo."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from tests.zoo.case import Part, Zoo

BEGIN, END = "<!-- support: begin -->", "<!-- support: end -->"
COLUMNS = {
    "exact": "exact", "leaf error": "answered, leaf error stated", "refused": "refused by name",
}  # fmt: skip
TITLES = {
    "lightgbm": "LightGBM", "xgboost": "XGBoost", "catboost": "CatBoost", "sklearn": "scikit-learn",
}  # fmt: skip
PACKAGES = {"xgboost": "xgboost-cpu", "sklearn": "scikit-learn"}  # where it is not the zoo's name
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def support_table(zoos: Sequence[Zoo]) -> str:
    """Markdown: a small table for each library."""
    sections = []
    for zoo in zoos:
        lines = [
            f"**{TITLES[zoo.library]}**, {_oldest(zoo)} and newer",
            "",
            f"| | {' | '.join(COLUMNS.values())} |",
        ]
        lines.append("|---" * 4 + "|")
        kinds = {"objectives": zoo.objectives, "settings": zoo.settings, "data": zoo.data}
        for title, parts in kinds.items():
            cells = [_names(zoo, parts, verdict) for verdict in COLUMNS]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        sections.append("\n".join(lines))
    return "\n\n".join(sections)


def _oldest(zoo: Zoo) -> str:
    """The oldest version that the tests are run with."""
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    package = PACKAGES.get(zoo.library, zoo.library)
    needed = [Requirement(line) for line in extras["dev-trees"]]
    return next(str(one.specifier) for one in needed if one.name == package).removeprefix(">=")


def _names(zoo: Zoo, parts: Sequence[Part], verdict: str) -> str:
    found = [
        (part.shown or part.name) + (f" (from {part.since})" if part.since else "")
        for part in parts
        if zoo.verdict(part).kind == verdict
    ]
    return "; ".join(found)


def with_table(text: str, zoos: Sequence[Zoo]) -> str:
    """A text whose marked part is the table."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{support_table(zoos)}\n\n{END}{after}"
