"""How results look in a notebook: short, escaped, without colours of their own."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from influence import Influence, TopInfluence, agreement, leave_one_out
from influence.comparison import compare_methods
from influence.counterfactual import counterfactual
from influence.detection import noise_detection
from influence.measuring import measured
from influence.removal import removal_curve
from influence.result import Provenance
from influence.result_html import SHOWN_LINES, result_html
from tests.influence.ridge import Ridge

EVIL = "<script>alert('&')</script>"
SOURCE = Provenance("LeafInfluence", {"through": EVIL}, "loss", "none", {"leaf_error": 0.012})


class Page(HTMLParser):
    """Tags, cells and all text of a piece of HTML; fails on tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.cells, self.text = set(), [], [], ""
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def influence(values, train_index=None):
    n_train, n_queries = values.shape
    index = pd.RangeIndex(n_train) if train_index is None else train_index
    return Influence(values, index, pd.Index([f"q{j}" for j in range(n_queries)]), SOURCE)


def top(values, train_index):
    order = np.argsort(-values, axis=0).T
    ranked = np.take_along_axis(values.T, order, axis=1)
    return TopInfluence(
        order, ranked, order[:, ::-1], ranked[:, ::-1],
        train_index, pd.Index([f"q{j}" for j in range(values.shape[1])]), SOURCE,
    )  # fmt: skip


@pytest.mark.parametrize("make", [influence, top])
def test_the_strongest_rows_of_the_first_queries(make):
    values = np.array([[0.25, 1, 1, 1], [-0.5, -1, 2, 2], [0.125, 3, 3, 3.0]])
    page = Page(make(values, pd.Index([EVIL, "b", "c"]))._repr_html_())
    assert page.cells[:6] == [
        "query", "rank", "proponent", "influence of proponent", "opponent", "influence of opponent",
    ]  # fmt: skip
    assert page.cells[6:12] == ["q0", "1", EVIL, "+0.25", "b", "-0.5"]
    assert page.cells[12:18] == ["q0", "2", "c", "+0.125", "", ""], "one opponent alone hurts"
    assert "q2" in page.cells and "q3" not in page.cells
    assert "first 3 of 4 queries" in page.text
    assert "positive = proponent" in page.text and "negative = opponent" in page.text
    assert "LeafInfluence" in page.text and "leaf error 0.012" in page.text
    assert "script" not in page.tags


def test_values_that_are_not_finite_are_told():
    page = Page(influence(np.array([[np.nan], [1.0]]))._repr_html_())
    assert "not finite" in page.text


def test_labels_of_any_kind():
    index = pd.MultiIndex.from_tuples([("a", 1), ("<b>", 2)])
    page = Page(influence(np.array([[1.0], [-1.0]]), index)._repr_html_())
    assert "('a', 1)" in page.cells and "('<b>', 2)" in page.cells and "b" not in page.tags
    assert "for the query." in page.text


def test_long_tables_are_cut_and_say_so():
    frame = pd.DataFrame({EVIL: np.arange(40.0)}, pd.Index([f"<i>{i}" for i in range(40)]))
    page = Page(result_html(EVIL, EVIL, frame))
    assert page.text.count(EVIL) == 3 and page.tags.isdisjoint({"script", "i"})
    assert f"... and {40 - SHOWN_LINES} more lines" in page.text
    assert page.cells.count("14") == 1 and "15" not in page.cells


def shown():
    ridge = Ridge()
    values = ridge.values()
    compared = compare_methods({EVIL: influence(values)}, ridge, loo=3, subsets=0, fractions=[0.1])
    return {
        "Agreement": agreement(ridge, ridge, leave_one_out(24), progress=False),
        "EffectCurve": removal_curve(values, ridge, (0, 0.1)),
        "NoiseDetection": noise_detection(values[:, 0], [3, 4]),
        "Counterfactual": counterfactual(values, lambda change: np.array([True])),
        "Measured": measured(lambda: EVIL),
        "Comparison": compared,
        "Judged": compared[EVIL],
    }


def test_every_result_is_shown():
    for name, result in shown().items():
        html = result._repr_html_()
        page = Page(html)
        assert name in page.text or name == "Judged"
        assert page.tags <= {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
        assert not re.search(r"(?<!text-align: )(color|background|#[0-9a-f]{3})", html), (
            "a colour of its own cannot be read in some theme"
        )
