"""`order_report`: a page of what is known of other orders of training."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from influence.errors import InputError
from influence.report import Figure, Page, write
from influence.report.page import check_writable
from llm_influence.order.comparison import OrderComparison
from llm_influence.order.curriculum import Curriculum
from llm_influence.order.documents import SIGN
from llm_influence.order.figures import (
    Part,
    Setting,
    of_answer,
    of_comparison,
    of_curriculum,
    of_memorisation,
)
from llm_influence.order.memorisation import Memorisation
from llm_influence.order.places import Unit
from llm_influence.order.run import OptimizerRun
from llm_influence.order.sample_order import METHODS, OrderAnswer

Result = OrderAnswer | OrderComparison | Curriculum | Memorisation

TITLE = "What would training in another order have done?"
FIGURES: Mapping[type, Callable[[Any, Setting], list[Part]]] = {
    OrderAnswer: of_answer,
    OrderComparison: of_comparison,
    Curriculum: of_curriculum,
    Memorisation: of_memorisation,
}


def order_report(
    path: str | os.PathLike[str],
    *results: Result,
    run: OptimizerRun | None = None,
    unit: Unit = "batch",
    title: str = TITLE,
) -> Path:
    """Writes a page of figures about orders of one run: an HTML file that opens offline.

    Each figure says how to read it and has its numbers as a table. Effects are changes of loss:
    positive = worse.

    - of an answer (`order.ask(queries)`): the map of effects by batch and place;
    - of a comparison: predicted against real effects;
    - of a curriculum: the order found among random ones, its places, and its comparison;
    - of a memorisation: how well each batch is known by its place, and the forgetting curve.

    Args:
        path: The file; one that exists is replaced.
        *results: Of any of these kinds, in the order of the page.
        run: The recorded training that they are about: the page then tells of it, and where
            batches of a curriculum were recorded. Without it an answer among the results tells the
            latter.
        unit: What was put into another order: "batch" or "sample".
        title: The page's heading.

    Returns:
        The path.

    Raises:
        InputError: No results, something else, or a curriculum of another run.
        MissingPackageError: jinja2 or plotly is not installed.
        StorageError: The file cannot be written.
    """
    check_writable(path)
    return write(path, order_page(*results, run=run, unit=unit, title=title))


def order_page(
    *results: Result, run: OptimizerRun | None = None, unit: Unit = "batch", title: str = TITLE
) -> Page:
    """What `order_report` writes; arguments as there."""
    for result in results:
        if type(result) not in FIGURES:
            known = ", ".join(kind.__name__ for kind in FIGURES)
            raise InputError(f"Expected results ({known}), got a {type(result).__name__}.")
    seen = None if run is None else run.by(unit)
    answers = [result.places for result in results if isinstance(result, OrderAnswer)]
    places = seen.places if seen is not None else answers[0] if answers else None
    parts = [part for one in results for part in FIGURES[type(one)](one, Setting(unit, places))]
    return Page(
        title,
        _about(results, seen),
        [part for part in parts if isinstance(part, str)],
        figures=_named_apart([part for part in parts if isinstance(part, Figure)]),
    )


def _about(results: tuple[Result, ...], run: OptimizerRun | None) -> dict[str, Any]:
    about = {**_methods(results), "unit": "loss", "sign": SIGN}
    if run is None:
        return about
    return {
        **about,
        "trained parameters": run.flat.n,
        "batches": run.n_batches,
        **run.provenance,
        "fingerprint": run.fingerprint,
    }


def _methods(results: tuple[Result, ...]) -> dict[str, str]:
    """What predicted, with its settings, each method once; with its name where it has one."""
    told: dict[str, str] = {}
    for result in results:
        if isinstance(result, OrderAnswer):
            continue
        method = (result.random if isinstance(result, Curriculum) else result).method
        if method in METHODS:
            settings = repr(METHODS[method]())
            told[settings] = f"{method} = {settings}"
        else:
            told.setdefault(method, method)
    names = ("method" if i == 1 else f"method {i}" for i in range(1, len(told) + 1))
    return dict(zip(names, told.values(), strict=True))


def _named_apart(figures: list[Figure]) -> list[Figure]:
    """Figures of one title get numbers from the second on."""
    from dataclasses import replace

    named, counts = [], dict[str, int]()
    for figure in figures:
        n = counts[figure.title] = counts.get(figure.title, 0) + 1
        named.append(figure if n == 1 else replace(figure, title=f"{figure.title} {n}"))
    return named
