"""`report`: a page about a tree model's predictions and the training rows behind them."""

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence import change
from influence.checks import check_whole
from influence.errors import UnsupportedModelError
from influence.progress import track
from influence.report import Answer, Gathered, Page, Rows, Suspects, Without, gather, write
from influence.report.gather import asked_of, blocks_of
from influence.report.page import check_writable
from influence.top import TopInfluence
from tree_influence.boostin import BoostIn
from tree_influence.leaf_refit import refitted
from tree_influence.run import TreeQueries, TreeRun
from tree_influence.shown_features import shown_features

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]

TITLE = "Which training rows made this model say that?"
REMOVED = (1, 3, 10, 30)  # rows left out at a time
NO_TRUTH = {
    "truth": "the queries have no truth: loss and sign refer to the model's own predictions"
}
SELF = (
    "Training rows by self-influence: what leaving a row out does to its own loss. Large values "
    "mark rows that the model could not have guessed from the others: wrong {} first, then rare "
    "cases."
)
SAYS = (
    "«says without it»: what the model says of the row when its leaf values are computed without "
    "it; {} is a strong hint."
)
TOTAL = "«total»: influence added over all queries; negative rows made them worse."


def report(
    path: str | os.PathLike[str],
    estimator: Any,
    *queries: Any,
    k: int = 10,
    max_queries: int = 200,
    max_rows: int = 500,
    refits: int = 20,
    has_truth: bool = True,
    title: str = TITLE,
    progress: bool = True,
) -> TopInfluence:
    """Writes a page that shows queries, the training rows behind them, and suspect rows.

    One HTML file that opens offline: for each query its prediction, truth, loss, proponents and
    opponents beside it, how influence adds up, and the prediction without the strongest rows; the
    training rows by self-influence and total influence.

    Cost: explaining all queries once, self-influence by `BoostIn`, and up to 8 refits of all leaf
    values (`LeafRefit`) for each of `refits` queries, one for each of `refits` rows.

    Args:
        path: The file; one that exists is replaced.
        estimator: A fitted estimator that has `explain`.
        *queries: X_test, y_test.
        k: Rows of each side to show.
        max_queries: Queries to show, those of largest loss; sums are over all.
        max_rows: Training rows to list besides those shown with queries.
        refits: How many queries and rows are worked out by refitting; 0 for none.
        has_truth: False where y_test holds the model's own predictions.
        title: The page's heading.
        progress: Show a bar on long work.

    Returns:
        The strongest rows of all queries, as `explain_top` gives them.

    Raises:
        InputError: No queries, or an estimator without `explain`.
        MissingPackageError: jinja2 or plotly is not installed.
        StorageError: The file cannot be written; found out before any work.
    """
    check_writable(path)
    page, top = report_page(
        estimator, *queries, k=k, max_queries=max_queries, max_rows=max_rows, refits=refits,
        has_truth=has_truth, title=title, progress=progress,
    )  # fmt: skip
    write(path, page)
    return top


def report_page(
    estimator: Any,
    *queries: Any,
    k: int = 10,
    max_queries: int = 200,
    max_rows: int = 500,
    refits: int = 20,
    has_truth: bool = True,
    title: str = TITLE,
    progress: bool = True,
) -> tuple[Page, TopInfluence]:
    """What `report` writes, and what it returns; arguments as there."""
    for name, value, least in (
        ("k", k, 1), ("max_queries", max_queries, 1), ("max_rows", max_rows, 0),
        ("refits", refits, 0),
    ):  # fmt: skip
        check_whole(name, value, least=least)
    run, asked = asked_of(estimator, queries, TreeRun, "tree_influence")
    found = gather(
        blocks_of(estimator, queries, progress), run.train_index, asked.index, estimator.provenance,
        shown=_worst(run, asked, max_queries), k=k,
    )  # fmt: skip
    made = _Made(run, asked, found, refits, has_truth, progress)
    return made.page(title, max_rows), found.top


def _worst(run: TreeRun, asked: TreeQueries, n: int) -> Positions:
    """The queries of largest loss first; the first ones where the loss of a row is not known."""
    try:
        return np.argsort(-run.losses(asked), kind="stable")[:n]
    except UnsupportedModelError:
        return np.arange(min(n, asked.n_queries))


@dataclass(frozen=True, eq=False)
class _Made:
    """What a page is made of.

    Attributes:
        run: The traced model.
        asked: All queries.
        found: Influence on them.
        refits: How many queries and rows are refitted.
        has_truth: Whether the queries' target is their truth.
        progress: Show a bar.
    """

    run: TreeRun
    asked: TreeQueries
    found: Gathered
    refits: int
    has_truth: bool
    progress: bool

    def page(self, title: str, max_rows: int) -> Page:
        run, found = self.run, self.found
        own, no_own = self._self_influence()
        suspects = found.suspects(own, max_rows)
        pool = np.union1d(found.rows, suspects)
        features = shown_features(run, self.asked, pool, found.shown)
        refits, no_refits = self._refits()
        rows = self._row_facts(pool, own, suspects[:refits])
        asked = Rows(self.asked.index[found.shown], self._query_facts(), features.queries)
        return Page(
            title,
            self._about(),
            [note for note in (found.limit, no_own, no_refits, features.note) if note],
            queries=asked,
            answers=self._answers(pool, refits),
            train=Rows(run.train_index[pool], rows, features.train),
            spreads=features.spreads,
            classes=run.classes is not None,
            ranks=found.ranks.tolist(),
            suspects=Suspects(
                np.searchsorted(pool, suspects).tolist(), self._reading(own is not None, refits > 0)
            ),
        )

    def _reading(self, own: bool, refits: bool) -> str:
        """How to read the list of training rows."""
        if not own:
            return f"Training rows by total influence. {TOTAL}"
        words = ("labels", "another label than the given one")
        if self.run.classes is None:
            words = ("targets", "a number far from the given one")
        told = [SELF.format(words[0]), SAYS.format(words[1]) if refits else "", TOTAL]
        return " ".join(part for part in told if part)

    def _self_influence(self) -> tuple[Floats | None, str]:
        """Of every training row, or why there is none."""
        try:
            return BoostIn().fit(self.run).self_influence(progress=self.progress), ""
        except UnsupportedModelError as error:
            return None, f"No self-influence, rows are listed by total influence: {error}"

    def _refits(self) -> tuple[int, str]:
        """How many queries and rows are refitted, and what is left out."""
        try:
            _ = self.run.replay
        except UnsupportedModelError as error:
            return 0, f"No predictions without rows: {error}"
        return self.refits, (
            f"Predictions without rows are worked out for the first {self.refits} queries and "
            f"{self.refits} suspect rows; refits (--refits) sets how many."
        )

    def _about(self) -> dict[str, Any]:
        facts = {
            "training rows": self.run.n_train,
            "queries": self.asked.n_queries,
            "trees": self.run.adapter.ensemble.n_trees,
            "parity": "the trees give the library's own raw predictions of all training rows",
        }
        return self.found.about(facts if self.has_truth else {**facts, **NO_TRUTH})

    def _query_facts(self) -> pd.DataFrame:
        run, asked, shown = self.run, self.asked, self.found.shown
        raw = run.adapter.ensemble.raw(asked.leaves[:, shown]) + asked.offset[shown]
        facts = {"prediction": _column(run.said(raw))}
        if self.has_truth:
            facts["truth"] = _column(asked.given.y[shown])
        with contextlib.suppress(UnsupportedModelError):  # the loss of a row is not known
            facts["loss"] = run.losses(asked)[shown].tolist()
        return pd.DataFrame(facts)

    def _row_facts(self, pool: Positions, own: Floats | None, refitted: Positions) -> pd.DataFrame:
        run = self.run
        raw = run.adapter.ensemble.raw(run.leaves[:, pool]) + run.offset[pool]
        facts: dict[str, Any] = {
            "target": _column(run.y[pool]),
            "prediction": _column(run.said(raw)),
        }
        if own is not None and len(refitted):
            says: dict[int, Any] = {}
            for row in track(refitted.tolist(), "suspect rows", len(refitted), self.progress):
                raw = without([row], run, run.train_queries()[row : row + 1])
                says[row] = _column(run.said(raw))[0]
            # An object column: whole numbers beside None would become floats.
            facts["says without it"] = pd.Series([says.get(int(row)) for row in pool], dtype=object)
        if own is not None:
            facts["self-influence"] = own[pool].tolist()
        facts["total"] = self.found.total[pool].tolist()
        return pd.DataFrame(facts)

    def _answers(self, pool: Positions, refits: int) -> list[Answer]:
        found, answers = self.found, []
        listed = enumerate(found.shown.tolist())
        for at, query in track(listed, "queries", len(found.shown), self.progress):
            sides = {"helpful": found.side(query, 1.0), "harmful": found.side(query, -1.0)}
            left_out = [
                self._without(query, side, [row for row, _ in ranked])
                for side, ranked in sides.items()
                if at < refits
            ]
            helpful, harmful = (
                [(int(np.searchsorted(pool, row)), value) for row, value in ranked]
                for ranked in sides.values()
            )
            sums = found.helpful_sums[at], found.harmful_sums[at]
            answers.append(Answer(helpful, harmful, *sums, left_out))
        return answers

    def _without(self, query: int, side: str, rows: list[int]) -> Without:
        """The query after the strongest rows of one side are left out."""
        asked, loss = self.asked[query : query + 1], self.run.adapter.loss()
        sizes = [n for n in REMOVED if n <= len(rows)]
        raws = [without(rows[:n], self.run, asked) for n in sizes]
        says = [_column(self.run.said(raw))[0] for raw in raws]
        losses = [float(loss.value(asked.target, raw)[0]) for raw in raws]
        return Without(side, sizes, says, np.array(losses))


def without(rows: list[int], run: TreeRun, asked: TreeQueries) -> Floats:
    """Raw scores of queries once all leaf values are computed without some training rows."""
    return refitted(change.Without(rows), run).raw_after(asked.leaves, asked.offset)


def _column(values: NDArray[np.generic]) -> list[Any]:
    """One value for each row; several numbers of a row as text."""
    if values.ndim == 1:
        return values.tolist()
    return [", ".join(f"{value:.4g}" for value in row) for row in values]
