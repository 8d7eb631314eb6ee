"""`Page` and `write`: arrays and text in, one self-contained HTML file out.

What a user's data holds reaches the page as JSON and is put on it as text, never as markup.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.errors import InputError, StorageError
from influence.extras import check_installed, extras_named
from influence.replacing import beside, replaceable, replacing

Floats = NDArray[np.float64]
Plain = Any  # what JSON holds

SCRIPTS = ("dom.js", "table.js", "charts.js", "texts.js", "queries.js", "page.js")
MOST_TEXT = 300  # characters of a value
EXACT = 2**53  # whole numbers up to here are numbers in a browser too


@dataclass(frozen=True, eq=False)
class Text:
    """A text in pieces that join to it.

    Attributes:
        pieces: Its pieces.
        answer: Which of them the model was to say; None where there is no prompt.
        special: Which of them stand for no text: marks of its end, padding.
        before: Tokens left out before it.
        after: Tokens left out after it.
    """

    pieces: Sequence[str]
    answer: Sequence[bool] | None = None
    special: Sequence[bool] = ()
    before: int = 0
    after: int = 0

    def payload(self) -> Plain:
        return {
            "pieces": list(self.pieces),
            "answer": None if self.answer is None else np.flatnonzero(self.answer).tolist(),
            "special": np.flatnonzero(self.special).tolist(),
            "before": int(self.before),
            "after": int(self.after),
        }


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as the page shows them.

    Attributes:
        index: The caller's labels.
        facts: What is known of each, one column a fact: prediction, truth, loss.
        features: Their features; None where they are texts or cannot be shown.
        texts: The rows as texts; None for tables.
    """

    index: pd.Index
    facts: pd.DataFrame
    features: pd.DataFrame | None = None
    texts: Sequence[Text] | None = None

    def __post_init__(self) -> None:
        parts = {"facts": self.facts, "features": self.features, "texts": self.texts}
        for name, part in parts.items():
            if part is not None and len(part) != len(self.index):
                raise InputError(
                    f"Expected {name} of {len(self.index)} rows, as the index has labels, got "
                    f"{len(part)}; give one for each row."
                )

    def payload(self) -> Plain:
        return {
            "labels": [plain(label) for label in self.index],
            "facts": _frame(self.facts, plain),
            "features": None if self.features is None else _frame(self.features, _feature),
            "texts": None if self.texts is None else [text.payload() for text in self.texts],
        }


@dataclass(frozen=True, eq=False)
class Without:
    """What the model says of a query after the strongest rows are left out.

    Attributes:
        side: "helpful" or "harmful": the rows left out.
        removed: How many, shape (n_removed,).
        says: What the model then says, one for each.
        losses: The query's loss then, shape (n_removed,).
    """

    side: str
    removed: Sequence[int]
    says: Sequence[Any]
    losses: Floats

    def payload(self) -> Plain:
        return {
            "side": self.side,
            "removed": [int(n) for n in self.removed],
            "says": [plain(word) for word in self.says],
            "losses": numbers(self.losses),
        }


@dataclass(frozen=True, eq=False)
class Answer:
    """The rows behind one query. Positions are those in the page's training rows.

    Attributes:
        helpful: (position, influence) of its proponents, strongest first.
        harmful: (position, influence) of its opponents, strongest first.
        helpful_sums: Influence of its strongest proponents added up, shape (n_ranks,).
        harmful_sums: The same of its opponents.
        without: What the model says without them.
        pieces: For texts: position of a training row to the influence of each of its pieces.
        on_query: For texts: the same to its influence on each piece of the query.
    """

    helpful: Sequence[tuple[int, float]]
    harmful: Sequence[tuple[int, float]]
    helpful_sums: Floats | None = None
    harmful_sums: Floats | None = None
    without: Sequence[Without] = ()
    pieces: Mapping[int, Floats] = field(default_factory=dict)
    on_query: Mapping[int, Floats] = field(default_factory=dict)

    def payload(self) -> Plain:
        return {
            "helpful": [[int(row), *numbers([value])] for row, value in self.helpful],
            "harmful": [[int(row), *numbers([value])] for row, value in self.harmful],
            "helpfulSums": None if self.helpful_sums is None else numbers(self.helpful_sums),
            "harmfulSums": None if self.harmful_sums is None else numbers(self.harmful_sums),
            "without": [one.payload() for one in self.without],
            "pieces": {str(row): numbers(values) for row, values in self.pieces.items()},
            "onQuery": {str(row): numbers(values) for row, values in self.on_query.items()},
        }


@dataclass(frozen=True, eq=False)
class Suspects:
    """The training rows as a list of their own.

    Attributes:
        rows: Positions in the page's training rows, most suspect first.
        told: How they were ranked, and what to look for.
    """

    rows: Sequence[int]
    told: str


@dataclass(frozen=True, eq=False)
class Figure:
    """A picture with its numbers.

    Attributes:
        title: What it shows.
        told: How to read it.
        spec: A Plotly figure as JSON, {"data": [...], "layout": {...}}; its parts are made by
            `influence.report.specs`.
        table: The same as numbers, for who cannot see it and for export.
        choices: What a reader may choose to see, by name, the first being `spec` as it is: for
            each trace, what takes the place of its entries.
    """

    title: str
    told: str
    spec: Mapping[str, Any]
    table: pd.DataFrame
    choices: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def payload(self) -> Plain:
        return {
            "title": self.title,
            "told": self.told,
            "spec": jsonable(self.spec),
            "table": _frame(self.table.reset_index(), plain),
            "choices": [[name, jsonable(traces)] for name, traces in self.choices.items()],
        }


@dataclass(frozen=True, eq=False)
class Page:
    """All that a page shows.

    Attributes:
        title: Its heading.
        about: Method, parameters, unit, sign, measured errors, by name.
        notes: What the page leaves out, and why: limits, methods that refused.
        queries: The queries shown; None for a page without.
        answers: One for each query.
        train: The training rows that are shown anywhere.
        spreads: Standard deviation of each feature over the training rows; NaN for categories.
        classes: Whether the facts "prediction", "truth" and "target" are classes, of which one is
            right or wrong; numbers are only near or far.
        ranks: What `helpful_sums` of the answers are added up to.
        suspects: Training rows as a list.
        figures: Pictures.
    """

    title: str
    about: Mapping[str, Any]
    notes: Sequence[str] = ()
    queries: Rows | None = None
    answers: Sequence[Answer] = ()
    train: Rows | None = None
    spreads: Floats | None = None
    classes: bool = False
    ranks: Sequence[int] = ()
    suspects: Suspects | None = None
    figures: Sequence[Figure] = ()

    def __post_init__(self) -> None:
        if self.queries is not None and len(self.queries.index) == 0:
            raise InputError("Expected queries to report on, got none; give at least one row.")
        if self.queries is None and not self.figures and self.suspects is None:
            raise InputError("Expected something to report, got no queries, rows or figures.")
        n_queries = 0 if self.queries is None else len(self.queries.index)
        if len(self.answers) != n_queries:
            raise InputError(
                f"Expected an answer for each of {n_queries} queries, got {len(self.answers)}; "
                "Answer([], []) says nothing of one."
            )
        self._check_train()

    def _check_train(self) -> None:
        """All rows that answers and suspects name must be there."""
        named = [row for one in self.answers for row, _ in (*one.helpful, *one.harmful)]
        named += [] if self.suspects is None else self.suspects.rows
        n_train = 0 if self.train is None else len(self.train.index)
        if self.train is None and (self.answers or self.suspects is not None):
            raise InputError(
                "Expected the training rows that answers and suspects name, got train=None; give "
                "their Rows."
            )
        if named and not 0 <= min(named) <= max(named) < n_train:
            raise InputError(
                f"Expected positions below {n_train}, the number of training rows on the page, got "
                f"{min(named)} to {max(named)}; positions are those in `train`."
            )

    def payload(self) -> Plain:
        """The page as JSON holds it."""
        suspects = self.suspects
        return {
            "title": self.title,
            "about": [[name, plain(value)] for name, value in self.about.items()],
            "notes": list(self.notes),
            "queries": None if self.queries is None else self.queries.payload(),
            "answers": [answer.payload() for answer in self.answers],
            "train": None if self.train is None else self.train.payload(),
            "spreads": None if self.spreads is None else numbers(self.spreads),
            "classes": self.classes,
            "ranks": [int(rank) for rank in self.ranks],
            "suspects": None
            if suspects is None
            else {"rows": [int(row) for row in suspects.rows], "told": suspects.told},
            "figures": [figure.payload() for figure in self.figures],
        }


def check_writable(path: str | os.PathLike[str]) -> None:
    """Makes sure that a page can be written, before any work.

    Raises:
        MissingPackageError: A package that pages need is not installed.
        StorageError: The folder is missing or cannot be written to, or what is there is no file or
            is read-only.
    """
    for package in ("jinja2", "plotly"):
        check_installed(package)
    target = Path(path)
    if os.path.isdir(target):  # of a name that is too long, Path.is_dir raises an error
        raise StorageError(
            f"Expected a file that can be written, got the folder {str(target.absolute())!r}; add "
            "a file's name, e.g. report.html."
        )
    try:
        part = beside(replaceable(target))
        part.touch()
        part.unlink()
    except OSError as error:
        raise StorageError(
            f"Expected a file that can be written, but {target.name!r} in "
            f"{str(target.absolute().parent)!r} cannot ({error.strerror}); give another path, or "
            "make its folder first."
        ) from error


def write(path: str | os.PathLike[str], page: Page) -> Path:
    """Writes a page; an existing file is replaced only once the new one is complete.

    Returns:
        The path.

    Raises:
        MissingPackageError: jinja2 or plotly is not installed.
        StorageError: The file cannot be written, or what is there is no file or is read-only.
    """
    text = render(page)
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8", "replace"))
    return Path(path)


def render(page: Page) -> str:
    """The page as HTML."""
    with extras_named():
        import jinja2
        from plotly.offline import get_plotlyjs
    assets = files("influence.report").joinpath("assets")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(assets.joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        title=page.title,
        style=assets.joinpath("page.css").read_text(encoding="utf-8"),
        scripts=[assets.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS],
        plotly=get_plotlyjs(),
        content=as_json(page.payload()),
    )


def as_json(content: Plain) -> str:
    """JSON that no text in it can end the script element it stands in."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def numbers(values: Any) -> list[float | None]:
    """Numbers at six digits, None where they are not finite."""
    listed = np.asarray(values, dtype=float).tolist()
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in listed]


def plain(value: Any) -> Plain:
    """One value as JSON holds it: a number, text, or None where it is missing."""
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | np.integer) and abs(int(value)) <= EXACT:
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    text = str(value)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def jsonable(value: Any) -> Plain:
    """A nested specification with all arrays as lists and all that is not finite as None."""
    if isinstance(value, Mapping):
        return {str(name): jsonable(part) for name, part in value.items()}
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return value if isinstance(value, bool) else plain(value)


def _feature(value: Any) -> Plain:
    """A feature's value: infinite ones as text, which are known and unlike each other."""
    infinite = isinstance(value, float | np.floating) and math.isinf(value)
    return str(float(value)) if infinite else plain(value)


def _frame(table: pd.DataFrame, told: Callable[[Any], Plain]) -> Plain:
    columns = [[told(value) for value in table.iloc[:, i]] for i in range(table.shape[1])]
    return {
        "names": [str(name) for name in table.columns],
        "rows": [list(row) for row in zip(*columns, strict=True)] or [[] for _ in table.index],
    }
