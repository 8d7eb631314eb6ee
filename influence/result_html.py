"""How results look in a notebook: a title, sentences and short tables, all of their text escaped.

No colour is set, so that it reads on light and dark pages alike.
"""

from html import escape

import numpy as np
import pandas as pd

SHOWN_QUERIES, SHOWN_ROWS = 3, 5  # of a ranking
SHOWN_LINES = SHOWN_QUERIES * SHOWN_ROWS  # of any table

READING = (
    "positive = proponent: the row helps, leaving it out raises the query's loss; "
    "negative = opponent: the row hurts, leaving it out lowers it"
)
EFFECT = "change of loss: positive = worse, negative = better"

QUIET = "opacity:0.75; font-size:90%; margin:0.2em 0; white-space:pre-line"


def result_html(title: str, *parts: str | pd.DataFrame) -> str:
    """A result as HTML.

    Args:
        title: What it is, in one line.
        *parts: Sentences and tables, in their order; of a table the first lines are shown, and
            how many there are.
    """
    shown = [_table(part) if isinstance(part, pd.DataFrame) else _said(part) for part in parts]
    return f"<div><p><strong>{escape(title)}</strong></p>{''.join(shown)}</div>"


def ranking_table(
    highest: tuple[np.ndarray, np.ndarray],
    lowest: tuple[np.ndarray, np.ndarray],
    train_index: pd.Index,
    query_index: pd.Index,
    floor: np.ndarray,
) -> pd.DataFrame:
    """The strongest proponents and opponents of the first queries, side by side.

    Args:
        highest: Positions and influence of the strongest rows, each shape (n_queries, k).
        lowest: Those of the smallest influence, likewise.
        train_index: Labels of the training rows.
        query_index: Labels of the queries.
        floor: Size up to which a query's values are rounding, at least of the first queries.
    """
    n, k = min(SHOWN_QUERIES, len(query_index)), min(SHOWN_ROWS, highest[0].shape[1])
    columns = {
        "query": np.repeat(query_index[:n].to_numpy(), k),
        "rank": np.tile(range(1, k + 1), n),
    }
    sides = (("proponent", highest, 1.0), ("opponent", lowest, -1.0))
    for name, (rows, values), sign in sides:
        there = (sign * values[:n, :k] > floor[:n, None]).ravel()
        labels = [str(label) for label in train_index[rows[:n, :k].ravel()]]
        told = [f"{value:+.4g}" for value in values[:n, :k].ravel()]
        columns[name] = np.where(there, labels, "")
        columns[f"influence of {name}"] = np.where(there, told, "")
    return pd.DataFrame(columns)


def ranking_html(
    title: str, table: pd.DataFrame, n_queries: int, provenance: str, unit: str
) -> str:
    """A ranking with what it is a part of, how to read its sign, and where it comes from."""
    n = min(SHOWN_QUERIES, n_queries)
    which = "the query" if n_queries == 1 else f"the first {n} of {n_queries} queries"
    reading = f"Strongest training rows for {which}. Influence ({unit}): {READING}."
    return result_html(title, reading, table, provenance)


def _said(text: str) -> str:
    return f'<p style="{QUIET}">{escape(text)}</p>'


def _table(frame: pd.DataFrame) -> str:
    shown = frame.head(SHOWN_LINES)
    labelled = not isinstance(frame.index, pd.RangeIndex)
    drawn = shown.to_html(
        index=labelled, escape=True, border=0, float_format=lambda value: f"{value:.4g}", na_rep=""
    )
    left = len(frame) - len(shown)
    return drawn + (_said(f"... and {left} more lines; to_frame() has them all") if left else "")
