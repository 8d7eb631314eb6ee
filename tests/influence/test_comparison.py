"""Comparing methods on ridge regression, where retraining is a closed form."""

import numpy as np
import pandas as pd
import pytest

from influence import Campaign, Influence
from influence.comparison import compare_methods, n_retrainings
from influence.errors import InputError, UnsupportedModelError
from influence.plot_style import CHANCE, METHOD
from influence.result import Provenance
from tests.influence.ridge import Ridge


def influence(values):
    source = Provenance("hand", {}, "loss", "none")
    n_train, n_queries = values.shape
    return Influence(values, pd.RangeIndex(n_train), pd.RangeIndex(n_queries), source)


def refuses():
    raise UnsupportedModelError("no trees here")


@pytest.fixture(scope="module")
def found():
    ridge = Ridge()
    truth = influence(ridge.values())
    methods = {"truth": lambda: truth, "against": influence(-ridge.values()), "none": refuses}
    return compare_methods(
        methods, Campaign(ridge, progress=False), loo=24, subsets=30, fractions=[0.1]
    )


def test_the_truth_wins_and_its_negative_loses(found):
    truth, against = found["truth"], found["against"]
    assert truth.loo.mean == pytest.approx(1.0)
    assert against.loo.mean == pytest.approx(-1.0)
    assert truth.lds.mean > 0.7
    assert against.lds.mean == pytest.approx(-truth.lds.mean)
    assert truth.removal.mean[-1] > found["random"].removal.mean[-1] > against.removal.mean[-1]
    assert "best loo truth 1" in repr(found)


def test_removal_is_that_of_the_closed_form(found):
    ridge = Ridge()
    top = ridge.values().argmax(axis=0)
    expected = np.mean([ridge.without([row])[j] for j, row in enumerate(top)])
    curve = compare_methods(
        {"truth": influence(ridge.values())}, ridge, loo=0, subsets=0, fractions=[1 / 24]
    )
    assert curve["truth"].removal.mean[0] == pytest.approx(expected)
    assert curve["truth"].loo is None


def test_the_table_has_the_largest_fraction_in_whatever_order():
    ridge = Ridge()
    given, sizes = {"truth": influence(ridge.values())}, {"loo": 0, "subsets": 0}
    up, down = (
        compare_methods(given, ridge, fractions=order, **sizes)
        for order in ([1 / 24, 0.25], [0.25, 1 / 24])
    )
    pd.testing.assert_frame_equal(
        up.to_frame().drop(columns="seconds"), down.to_frame().drop(columns="seconds")
    )


def test_the_table_names_what_refused(found):
    frame = found.to_frame().set_index("method")
    assert frame.index.tolist() == ["truth", "against", "none", "random"]
    assert frame["refused"]["none"] == "UnsupportedModelError: no trees here"
    assert np.isnan(frame["lds"]["none"])
    assert frame["seconds"]["truth"] >= 0
    assert np.isnan(frame["seconds"]["against"])
    assert (frame["lds_low"] <= frame["lds"])[["truth", "random"]].all()
    assert found.removal_frame()["method"].unique().tolist() == ["truth", "against", "random"]


def test_every_retraining_is_counted_and_done_once(tmp_path):
    ridge, methods = Ridge(), {"truth": influence(Ridge().values())}
    options = {"loo": 5, "subsets": 4, "fractions": (0.1, 0.3)}
    campaign = Campaign(ridge, tmp_path, progress=False)
    first = compare_methods(methods, campaign, **options)
    planned = n_retrainings(len(methods), 5, **options)
    assert planned == {"loo": 5, "lds": 4, "removal": 20}
    assert 5 + 4 < len(ridge.calls) <= sum(planned.values())
    again = Ridge()
    second = compare_methods(methods, Campaign(again, tmp_path, progress=False), **options)
    assert again.calls == []
    pd.testing.assert_frame_equal(first.to_frame(), second.to_frame())


def test_mistakes_are_named():
    ridge = Ridge()
    with pytest.raises(InputError, match="none: UnsupportedModelError: no trees here"):
        compare_methods({"none": refuses}, ridge)
    with pytest.raises(InputError, match="same rows and queries"):
        compare_methods({"a": influence(np.ones((24, 5))), "b": influence(np.ones((24, 4)))}, ridge)
    with pytest.raises(InputError, match="3 or more"):
        compare_methods({"a": influence(ridge.values())}, ridge, loo=2)
    with pytest.raises(InputError, match=r"function without arguments .* 'a', got a int"):
        compare_methods({"a": 5}, ridge)  # type: ignore[dict-item]
    with pytest.raises(InputError, match="seed must be a whole number"):
        compare_methods({"a": influence(ridge.values())}, ridge, seed=-1)
    with pytest.raises(InputError, match="one of a, random"):
        compare_methods({"a": influence(ridge.values())}, ridge, loo=3, subsets=0)["b"]


def test_it_plots(found):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = found.plot()
    lines, bars = figure.axes[2].get_lines(), figure.axes[0].patches
    names = [line.get_label() for line in lines if line.get_gid() in (METHOD, CHANCE)]
    assert names == ["truth", "against", "random"]
    np.testing.assert_allclose(bars[0].get_width(), found["truth"].lds.mean)
    pyplot.close(figure)
