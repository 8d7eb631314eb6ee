"""The page of a comparison of methods: its numbers are the comparison's own."""

import numpy as np
import pytest

from influence import Campaign
from influence.comparison import compare_methods
from influence.report import write
from influence.report.comparison import comparison_page
from tests.browser import LOOKS, look_through
from tests.influence.ridge import Ridge
from tests.influence.test_comparison import influence, refuses


@pytest.fixture(scope="module")
def found():
    ridge = Ridge()
    values, rng = ridge.values(), np.random.default_rng(0)
    methods = {
        "truth": lambda: influence(values),
        "noisy truth": lambda: influence(values + rng.normal(0, values.std(), values.shape)),
        "against": influence(-values),
        "none": refuses,
    }
    campaign = Campaign(ridge, progress=False)
    return compare_methods(methods, campaign, loo=12, subsets=20, fractions=[0.05, 0.1, 0.2])


@pytest.fixture(scope="module")
def page(found):
    return comparison_page(found, {"unit": "rank correlation"}, ["One subset had no class."])


def figure(page, title):
    (one,) = [figure for figure in page.figures if figure.title == title]
    return one


@pytest.mark.parametrize(("title", "measure"), [("LDS", "lds"), ("Single rows", "loo")])
def test_bars_and_intervals_are_those_of_the_comparison(found, page, title, measure):
    chance, methods = figure(page, title).spec["data"]
    assert methods["y"] == ["truth", "noisy truth", "against"] and chance["y"] == ["random"]
    for trace in (chance, methods):
        for i, name in enumerate(trace["y"]):
            judged = getattr(found[name], measure)
            assert trace["x"][i] == pytest.approx(judged.mean, rel=1e-5)
            ends = (trace["x"][i] - trace["error_x"]["arrayminus"][i],
                    trace["x"][i] + trace["error_x"]["array"][i])  # fmt: skip
            np.testing.assert_allclose(ends, judged.interval, rtol=1e-4, atol=1e-6)
    assert figure(page, title).table.loc["truth", measure] == getattr(found["truth"], measure).mean


def test_curves_and_bands_are_those_of_the_removals(found, page):
    data = figure(page, "Removal").spec["data"]
    assert [trace["name"] for trace in data[1::2]] == ["truth", "noisy truth", "against", "random"]
    for band, curve in zip(data[::2], data[1::2], strict=True):
        removal = found[curve["name"]].removal
        np.testing.assert_allclose(curve["x"], [5, 10, 20])
        np.testing.assert_allclose(curve["y"], removal.mean, rtol=1e-5)
        np.testing.assert_allclose(band["y"][:3], removal.high, rtol=1e-5)
        np.testing.assert_allclose(band["y"][:2:-1], removal.low, rtol=1e-5)
        assert band["x"] == [5, 10, 20, 20, 10, 5]
    looks = {(trace["tone"], trace["marker"].get("symbol")) for trace in data[1::2]}
    assert len(looks) == 4, "two methods look alike"
    choices = figure(page, "Removal").choices
    assert list(choices) == ["all methods", "truth", "noisy truth", "against", "random"]
    seen = {
        name: [i for i, trace in enumerate(traces) if trace["visible"]]
        for name, traces in choices.items()
    }
    assert seen["all methods"] == [1, 3, 5, 7], "lines alone"
    assert seen["noisy truth"] == [2, 3, 7], "its band and line, and chance"


def test_only_what_was_timed_has_a_cost(found, page):
    time, memory = figure(page, "Cost").spec["data"]
    assert time["y"] == memory["y"] == ["truth", "noisy truth"]  # the others came ready-made
    low, high = figure(page, "Cost").spec["layout"]["xaxis"]["range"]
    assert all(10.0**low <= seconds <= 10.0**high for seconds in time["x"])
    np.testing.assert_allclose(time["x"], [found[name].seconds for name in time["y"]], rtol=1e-5)


def test_what_is_left_out_is_told(page):
    assert page.notes[0] == "One subset had no class."
    assert "none refused: UnsupportedModelError: no trees here" in page.notes[1]
    assert page.about["sign"].startswith("larger = better")


def test_what_was_not_measured_has_no_figure():
    ridge = Ridge()
    found = compare_methods({"truth": influence(ridge.values())}, ridge, subsets=5, loo=0,
                            fractions=())  # fmt: skip
    assert [figure.title for figure in comparison_page(found).figures] == ["LDS"]


@pytest.mark.parametrize(("size", "dark"), LOOKS)
def test_every_view_opens_and_can_be_read(browser, page, tmp_path, size, dark):
    look_through(browser, write(tmp_path / "comparison.html", page), "comparison", size, dark)
