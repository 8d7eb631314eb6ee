"""Pages made of plain arrays, for tests that look at them."""

import json
import re
from typing import Any

import numpy as np
import pandas as pd

from influence.report import Answer, Figure, Page, Rows, Suspects, Text, Without

MARKUP = "<script>document.title = 'run'</script><b>bold</b>"


def table_page(n_queries: int = 3, n_train: int = 30, **changed: Any) -> Page:
    """Row i is the strongest for query i; the label of row 1 is markup, a feature is missing."""
    rng = np.random.default_rng(0)
    train = pd.DataFrame(
        {"age": rng.integers(20, 60, n_train) * 1.0, "job": ["cook", "nurse"] * (n_train // 2)}
    )
    train.loc[2, "age"] = np.nan
    asked = train.iloc[:n_queries].reset_index(drop=True)
    facts = pd.DataFrame({
        "target": ["yes", MARKUP] * (n_train // 2), "prediction": ["yes"] * n_train,
        "says without it": ["no", None] * (n_train // 2),
        "self-influence": np.linspace(1, 0, n_train), "total": rng.normal(size=n_train),
    })  # fmt: skip
    given = {
        "queries": Rows(
            pd.RangeIndex(n_queries),
            pd.DataFrame({
                "prediction": ["yes"] * n_queries, "truth": ["yes", "no", "no"] * (n_queries // 3),
                "loss": np.linspace(2, 0, n_queries),
            }),
            asked,
        ),
        "answers": [_answer(i, n_train) for i in range(n_queries)],
        "train": Rows(pd.Index([f"row-{i}" for i in range(n_train)]), facts, train),
        "spreads": np.array([10.0, np.nan]),
        "ranks": [1, 2, 5],
        "classes": True,
        "suspects": Suspects(list(range(n_train)), "Rows, strangest first."),
    }  # fmt: skip
    return Page(
        "A table",
        {"method": "Mine", "sign": "positive helps"},
        ["All is shown."],
        **{**given, **changed},
    )


def text_page() -> Page:
    """A question, and two texts behind it: of one a piece helps and one harms, the other is long.

    The answer of the question is its second piece, which the first text acts on.
    """
    doc = Text(["The ", "cat ", "sat", MARKUP, "<end>"], special=[False] * 4 + [True])
    rows = Rows(
        pd.Index(["doc", "long"]),
        pd.DataFrame({"loss": [0.5, 0.1]}),
        texts=[doc, Text(["word "] * 300, before=1234, after=1)],
    )
    asked = Text(["Where ", "is it?", " There.", "<end>"], [False, False, True, True])
    query = Rows(pd.Index(["asked"]), pd.DataFrame({"loss": [1.5]}), texts=[asked])
    pieces = {0: np.array([0.0, 1.0, -0.8, 0.0, 0.0]), 1: np.full(300, -0.01)}
    on_query = {0: np.array([0.0, 0.0, 2.0, 0.0]), 1: np.array([-3.0, 0.0, 0.0, 0.0])}
    answer = Answer([(0, 2.0)], [(1, -1.0)], pieces=pieces, on_query=on_query)
    return Page(
        "Texts", {"method": "Mine"}, queries=query, answers=[answer], train=rows,
        suspects=Suspects([1, 0], "Texts, strangest first."),
    )  # fmt: skip


def figure_page() -> Page:
    table = pd.DataFrame({"predicted": [0.1, np.nan], "real": [0.2, np.inf]})
    spec = {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": table["predicted"].to_numpy(),
                "y": np.array([0.2, 0.1]),
            }
        ]
    }
    return Page(
        "Orders", {}, figures=[Figure("Predicted and real", "One point an order.", spec, table)]
    )


def _answer(i: int, n_train: int) -> Answer:
    helpful = [((i + step) % n_train, 1.0 / (1 + step)) for step in range(12)]
    harmful = [((i + 15 + step) % n_train, -0.5 / (1 + step)) for step in range(5)]
    left_out = [Without("helpful", [1, 3], ["yes", "no"], np.array([2.1, np.nan]))]
    return Answer(
        helpful, harmful, np.array([1.0, 1.5, 2.0]), np.array([-0.5, -0.7, -1.0]), left_out
    )


def content(html: str) -> dict[str, Any]:
    """What the page of a file holds."""
    (held,) = re.findall(
        r'<script type="application/json" id="content">(.*?)</script>', html, re.DOTALL
    )
    return json.loads(held)
