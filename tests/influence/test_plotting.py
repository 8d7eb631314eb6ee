"""What is drawn are the numbers given; what cannot be drawn is refused by name."""

import numpy as np
import pandas as pd
import pytest

from influence import Influence
from influence import plotting as plots
from influence.errors import InputError
from influence.plot_style import CHANCE, COLOURS, METHOD, OPPONENT, PROPONENT
from influence.result import Provenance

pyplot = pytest.importorskip("matplotlib.pyplot")
colors = pytest.importorskip("matplotlib.colors")

TWO = [0.0, 1.0]
DRAWN = {
    "influence_distribution": lambda ax: plots.influence_distribution([1.0, -2.0, 0.0], ax),
    "removal_curve": lambda ax: plots.removal_curve(TWO, TWO, (TWO, TWO), ax),
    "noise_curve": lambda ax: plots.noise_curve(TWO, TWO, ax),
    "lds_comparison": lambda ax: plots.lds_comparison(["a", "b"], TWO, None, ax),
    "effect_scatter": lambda ax: plots.effect_scatter([0.0, 1.0, 2.0], [0.0, 2.0, 4.0], ax),
    "position_map": lambda ax: plots.position_map(np.eye(3), ax),
    "memorisation_map": lambda ax: plots.memorisation_map(np.eye(3), ax),
    "forgetting_curve": lambda ax: plots.forgetting_curve(TWO, ax),
    "curriculum_histogram": lambda ax: plots.curriculum_histogram(TWO, -1.0, ax),
    "counterfactual_search": lambda ax: plots.counterfactual_search([1, 2], [False, True], ax),
}


@pytest.fixture(autouse=True)
def closed():
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


@pytest.mark.parametrize("name", DRAWN)
def test_axes_are_those_given_and_no_setting_changes(name):
    before = dict(pyplot.rcParams)
    ax = pyplot.subplots()[1]
    assert DRAWN[name](ax) is ax
    assert DRAWN[name](None) is not ax
    assert ax.get_xlabel() and ax.get_title(loc="left")
    ax.figure.canvas.draw()
    assert dict(pyplot.rcParams) == before


def heights(ax, colour):
    """Heights and middles of the bars of a colour."""
    bars = [bar for bar in ax.patches if bar.get_facecolor()[:3] == colors.to_rgb(colour)]
    assert bars, f"no bar is {colour}"
    return (
        np.array([bar.get_height() for bar in bars]),
        np.array([bar.get_x() + bar.get_width() / 2 for bar in bars]),
    )


def test_a_distribution_counts_every_row():
    values = np.array([3.0, 1.0, 0.0, -0.5, -2.0, -2.0])
    ax = plots.influence_distribution(values, bins=3, unit="similarity")
    count, middle = heights(ax, PROPONENT)
    np.testing.assert_array_equal(count[np.argsort(middle)], [0, 1, 1])  # edges 0, 1, 2, 3
    count, middle = heights(ax, OPPONENT)
    np.testing.assert_array_equal(count[np.argsort(-middle)], [1, 0, 2])
    assert "1 of influence 0" in ax.get_title(loc="left")
    assert ax.get_xlabel() == "influence (similarity)" and ax.get_xscale() == "linear"


def test_a_heavy_tail_is_drawn_by_magnitude():
    values = np.array([[1e3, 1e-4], [1.0, 2.0], [-1.0, -50.0]])
    ax = plots.influence_distribution(values)
    assert ax.get_xscale() == "symlog"
    assert heights(ax, PROPONENT)[0].sum() == 3, "1000, 1 and 2; 0.0001 is in the grey bar"
    assert heights(ax, OPPONENT)[0].sum() == 2
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["opponents (2)", "proponents (4)", "of them within ±0.01 (1)"]
    assert "6 pairs" in ax.get_title(loc="left")


def test_values_that_are_all_zero_have_a_distribution():
    ax = plots.influence_distribution(np.zeros(4))
    assert sum(bar.get_height() for bar in ax.patches) == 0
    assert "4 of influence 0" in ax.get_title(loc="left")


def test_removal_curves_of_several_methods_and_chance():
    shares, mean, low, high = [0, 0.1, 0.5], [0, 2, np.nan], [0, 1, np.nan], [0, 4, np.nan]
    ax = plots.removal_curve(shares, mean, (low, high), label="ours")
    plots.removal_curve(shares, [0, 1, 2], ax=ax, label="other")
    plots.removal_curve(shares, [0, 0.1, 0.2], ax=ax, label="random", reference=True)
    methods = [line for line in ax.lines if line.get_gid() == METHOD]
    np.testing.assert_allclose(methods[0].get_xdata(), [0, 10, 50])
    np.testing.assert_array_equal(methods[0].get_ydata(), mean)
    assert [line.get_color() for line in methods] == list(COLOURS[:2])
    (chance,) = [line for line in ax.lines if line.get_gid() == CHANCE]
    np.testing.assert_allclose(chance.get_ydata(), [0, 0.1, 0.2])
    band = ax.collections[0].get_paths()[0].vertices
    assert {(10.0, 1.0), (10.0, 4.0)} <= {tuple(point) for point in band.tolist()}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["ours", "other", "random"]


def test_noise_curves_share_one_line_of_chance():
    ax = plots.noise_curve([0, 0.5, 1], [0, 0.8, 1], label="a")
    plots.noise_curve([0, 0.5, 1], [0, 0.6, 1], ax, label="b")
    methods = [line for line in ax.lines if line.get_gid() == METHOD]
    np.testing.assert_allclose(methods[1].get_ydata(), [0, 60, 100])
    assert sum(line.get_gid() == CHANCE for line in ax.lines) == 1


def test_bars_with_intervals_and_a_floor():
    names = ["a", "b", "random"]
    interval = [[0.4, np.nan, -0.1], [0.7, np.nan, 0.2]]
    ax = plots.lds_comparison(names, [0.5, 0.3, 0.0], interval, noise_floor=0.8)
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0.3, 0.0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == names
    segments = ax.collections[0].get_segments()
    np.testing.assert_allclose([s[:, 0] for s in segments], [[0.4, 0.7], [-0.1, 0.2]])
    assert [s[0, 1] for s in segments] == [0, 2], "b has no interval"
    (floor,) = [line for line in ax.lines if line.get_gid() == CHANCE]
    assert list(floor.get_xdata()) == [0.8, 0.8]


def test_a_scatter_states_rank_correlation_and_slope():
    predicted = np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0], [3.0, 0.0]])
    ax = plots.effect_scatter(predicted, 2 * predicted, what="order")
    drawn = np.column_stack([line.get_ydata() for line in ax.lines[:2]])
    np.testing.assert_array_equal(drawn, 2 * predicted)
    assert ax.get_title(loc="left") == "Spearman 1.00, slope 2 (4 orders, mean of 2 queries)"
    assert "slope 2 (4 changes)" in plots.effect_scatter(
        predicted[:, 0], 2 * predicted[:, 0]
    ).get_title(loc="left")


def test_maps_stand_items_down_and_places_across():
    values = np.arange(12.0).reshape(2, 3, 2)  # queries, places, items
    ax = plots.position_map(values, unit="sample")
    np.testing.assert_array_equal(ax.images[0].get_array(), values.mean(axis=0).T)
    assert ax.images[0].get_clim() == (-8.0, 8.0), "0 must be white"
    assert ax.get_ylabel() == "sample"
    ax = plots.memorisation_map(values[0])
    np.testing.assert_array_equal(ax.images[0].get_array(), values[0])


def test_an_order_found_has_its_rank_in_the_title():
    ax = plots.curriculum_histogram([0.0, -1.0, 2.0], -0.5)
    assert sum(bar.get_height() for bar in ax.patches) == 3
    assert [line.get_xdata()[0] for line in ax.lines] == [0, -0.5]
    assert "2 of 4" in ax.get_title(loc="left")


def test_a_search_tells_the_fewest_rows():
    ax = plots.counterfactual_search([1, 4, 3], [False, True, True])
    assert ax.lines[2].get_ydata().tolist() == [4, 3]
    assert "3 rows flip" in ax.get_title(loc="left")
    assert "None" in plots.counterfactual_search([1], [False]).get_title(loc="left")


def test_an_influence_draws_one_query_or_all():
    values = np.array([[1.0, -1.0], [2.0, 3.0]])
    source = Provenance("M", {}, "similarity", "f")
    found = Influence(values, pd.RangeIndex(2), pd.RangeIndex(2), source)
    assert "4 pairs" in found.plot().get_title(loc="left")
    ax = found.plot(query=1)
    assert heights(ax, OPPONENT)[0].sum() == 1 and "similarity" in ax.get_xlabel()
    with pytest.raises(InputError, match="between 0 and 1"):
        found.plot(query=2)


BAD = {
    "empty": (lambda: plots.forgetting_curve([]), "at least one number"),
    "text": (lambda: plots.forgetting_curve(["a"]), "Expected numbers as losses"),
    "one axis": (lambda: plots.memorisation_map([1.0, 2.0]), "values of 2 axes"),
    "four axes": (lambda: plots.position_map(np.ones((1, 1, 1, 1))), "values of 2 axes"),
    "a number": (lambda: plots.influence_distribution(np.array(1.0)), "values of 1 axes"),
    "missing": (lambda: plots.influence_distribution([1.0, np.nan]), r"at \(1,\)"),
    "infinite": (lambda: plots.removal_curve(TWO, [0, np.inf]), "finite numbers as mean"),
    "all missing": (lambda: plots.removal_curve(TWO, [np.nan, np.nan]), "at all places"),
    "lengths": (lambda: plots.removal_curve(TWO, [0.0]), r"fractions \(2,\), mean \(1,\)"),
    "interval": (lambda: plots.removal_curve(TWO, TWO, TWO), r"interval of shape \(2, 2\)"),
    "upside down": (lambda: plots.lds_comparison("a", [0.5], [[1], [0]]), "lower ends"),
    "names": (lambda: plots.lds_comparison(["a"], TWO), "a name for each mean, got 1 and 2"),
    "floor": (lambda: plots.lds_comparison("a", [0.5], noise_floor=np.nan), "noise_floor"),
    "no bins": (lambda: plots.influence_distribution([1.0], bins=0), "bins must be a whole number"),
    "removed percent": (lambda: plots.removal_curve([1, 10], TWO), "fractions as shares from 0"),
    "percent": (lambda: plots.noise_curve([0, 50], TWO), "divide percentages by 100"),
    "too few": (lambda: plots.effect_scatter(TWO, TWO), "at least 3 changes"),
    "other shape": (lambda: plots.effect_scatter([1, 2, 3], np.ones((3, 2))), "one shape"),
    "found": (lambda: plots.curriculum_histogram(TWO, np.nan), "numbers as found"),
    "flips": (lambda: plots.counterfactual_search([1], [True, False]), "of one shape"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_drawn_is_refused(name):
    call, message = BAD[name]
    with pytest.raises(InputError, match=message):
        call()
    assert not pyplot.get_fignums(), "an empty figure was left open"


def test_pictures_side_by_side_in_a_file(tmp_path):
    plots.draw(tmp_path / "two.png", [DRAWN["noise_curve"], DRAWN["forgetting_curve"]])
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    assert not pyplot.get_fignums()
    with pytest.raises(OSError, match="Could not write"):
        plots.draw(tmp_path / "none" / "two.png", [DRAWN["noise_curve"]])
