"""The page about orders: its figures hold the results' own numbers, and every view opens."""

from dataclasses import replace

import numpy as np
import pytest

from influence.errors import InputError, UnsupportedChangeError
from influence.report import write
from llm_influence import order_report
from llm_influence.order import figures
from llm_influence.order.comparison import OrderComparison
from llm_influence.order.curriculum import Curriculum
from llm_influence.order.figures import recorded_at
from llm_influence.order.galerkin import Galerkin
from llm_influence.order.mean_field import MeanField
from llm_influence.order.memorisation import Memorisation
from llm_influence.order.places import Places
from llm_influence.order.reporting import order_page
from llm_influence.order.sample_order import Calibration, OrderAnswer
from tests.browser import LOOKS, look_through, opened

CALIBRATION = Calibration(0.75, 0.9, 12, (0.5, 0.95))
N, N_QUERIES, N_ORDERS = 5, 3, 8
RECORDED = np.array([2, 0, 1, 4, 3])


class Asked:
    """Answers that are a sum over places of a table, or no such sum."""

    def __init__(self, table):
        self.table = table

    def positions(self):
        if self.table is None:
            raise UnsupportedChangeError("they are no sums")
        return self.table


def answer(sums=True):
    table = np.random.default_rng(0).normal(size=(N_QUERIES, N, N)) if sums else None
    places = Places(N, RECORDED, np.arange(N), np.ones(N), (0,))
    return OrderAnswer(Asked(table), places, CALIBRATION, 0)  # type: ignore[arg-type]


def compared(n_queries=N_QUERIES):
    rng = np.random.default_rng(1)
    orders = np.stack([rng.permutation(N) for _ in range(N_ORDERS)])
    real = rng.normal(size=(N_ORDERS, n_queries))
    noise = 0.5 * rng.normal(size=real.shape)
    return OrderComparison(orders, real + noise, real, "mean_field", CALIBRATION)


def found(n_queries=N_QUERIES):
    order = np.array([4, 2, 0, 3, 1])
    low = np.full(n_queries, -3.0)
    return Curriculum(order, low + 0.5, low, compared(n_queries))


def known(held_out=True):
    values = np.random.default_rng(2).normal(size=(N, N))
    values -= values.mean(axis=1, keepdims=True)
    return Memorisation(
        values, -values if held_out else None, np.arange(N), 0, "galerkin", CALIBRATION
    )


def figure(page, title):
    (one,) = [figure for figure in page.figures if figure.title == title]
    return one


def test_the_position_map_is_that_of_the_answer():
    asked = answer()
    one = figure(order_page(asked), "Position map")
    values = asked.positions()
    drawn, recorded = one.spec["data"]
    np.testing.assert_allclose(drawn["z"], values.mean(axis=0).T, rtol=1e-5, atol=1e-12)
    assert drawn["zmax"] == -drawn["zmin"] == np.abs(values.mean(axis=0)).max()
    for place, item in zip(recorded["x"], recorded["y"], strict=True):
        assert RECORDED[place] == item and drawn["z"][item][place] == 0
    assert list(one.choices) == ["mean of the queries", "query 0", "query 1", "query 2"]
    np.testing.assert_allclose(one.choices["query 2"][0]["z"], values[2].T, rtol=1e-5, atol=1e-12)
    row = one.table.reset_index().query("place == 3 and batch == 1").iloc[0]
    assert row["query 1"] == pytest.approx(values[1, 3, 1], rel=1e-5)
    assert "Blue: a lower loss" in one.told and "0.75 [0.50, 0.95]" in one.told


def test_answers_that_are_no_sums_are_told_of():
    page = order_page(answer(sums=False), known())
    assert [figure.title for figure in page.figures] == [
        "Memorisation", "Forgetting", "Held-out loss"
    ]  # fmt: skip
    assert page.notes == ["No position map: they are no sums"]
    with pytest.raises(InputError, match="something to report"):
        order_page(answer(sums=False))


def test_what_is_too_large_is_told_of(monkeypatch):
    monkeypatch.setattr(figures, "MOST_ENTRIES", N * N * 2)
    page = order_page(answer())
    assert list(page.figures[0].choices) == ["mean of the queries", "query 0", "query 1"]
    assert page.notes == ["The position map shows the first 2 of 3 queries by name."]
    monkeypatch.setattr(figures, "MOST_ENTRIES", N * N - 1)
    page = order_page(answer(), known())
    assert [figure.title for figure in page.figures] == ["Forgetting"]
    assert len(page.notes) == 3 and "5 items at 5 places" in page.notes[0]


def test_points_are_the_effects_of_the_orders():
    comparison = compared()
    one = figure(order_page(comparison), "Predicted and real")
    points, line = one.spec["data"]
    np.testing.assert_allclose(points["x"], comparison.predicted.ravel(), rtol=1e-5)
    np.testing.assert_allclose(points["y"], comparison.retrained.ravel(), rtol=1e-5)
    assert line["x"] == line["y"], "the line of right size has slope 1"
    (of_query,) = list(one.choices.values())[2]
    np.testing.assert_allclose(of_query["y"], comparison.retrained[:, 1], rtol=1e-5)
    row = one.table.reset_index().query("order == 4 and query == 2").iloc[0]
    assert row["predicted"] == pytest.approx(comparison.predicted[4, 2], rel=1e-5)
    assert f"Spearman {comparison.agreement.mean:.2f}" in one.told
    assert "Calibration beforehand, by other orders: rank agreement 0.75" in one.told


def test_the_curriculum_stands_among_the_random_orders():
    result = found()
    one = figure(order_page(result), "Curriculum")
    bars, own, recorded = one.spec["data"]
    real = result.random.retrained.mean(axis=1)
    nearest = np.abs(real[:, None] - np.array(bars["x"])).argmin(axis=1)
    assert bars["y"].tolist() == np.bincount(nearest, minlength=len(bars["x"])).tolist()
    assert own["x"] == [-3.0, -3.0] and recorded["x"] == [0, 0]
    assert "-3 (predicted -2.5)" in one.told and "better than all 8" in one.told
    np.testing.assert_allclose(one.table["retrained"], [-3, 0, *real])
    scatter = figure(order_page(result), "Predicted and real").spec["data"]
    assert [trace["name"] for trace in scatter][:2] == ["random order", "order found"]
    assert scatter[1]["y"] == [-3.0] * N_QUERIES


@pytest.mark.parametrize(
    ("own", "others", "says"),
    [
        (-1.0, [0.5, 2.0, 3.0], "better than all 3 random orders and than the recorded order."),
        (1.0, [1.5, 2.0, 3.0], "better than all 3 random orders, but worse than the recorded"),
        (0.0, [1.5, 2.0, 3.0], "better than all 3 random orders, but no better than the recorded"),
        (-1.0, [-1.0, 2.0, 3.0], "No success: 1 of 3 random orders are as good or better."),
        (1.0, [0.5, 2.0, 3.0], "as good or better, and so is the recorded order."),
    ],
)
def test_the_verdict_is_against_random_orders_and_the_recorded_one(own, others, says):
    real = np.array(others)[:, None]
    orders = np.stack([np.roll(np.arange(N), 1 + k) for k in range(len(real))])
    random = OrderComparison(orders, real, real, "mean_field", CALIBRATION)
    result = Curriculum(np.arange(N), np.array([-2.0]), np.array([own]), random)
    assert says in result.verdict
    assert result.verdict in result.summary()
    assert result.verdict in figure(order_page(result), "Curriculum").told


def test_where_each_batch_was_recorded():
    result = found()
    one = figure(order_page(result, answer()), "Order found")
    assert one.table["batch"].tolist() == result.order.tolist()
    assert RECORDED[one.table["recorded at"]].tolist() == result.order.tolist()
    points, _ = one.spec["data"]
    assert points["y"].tolist() == one.table["recorded at"].tolist()
    without = order_page(result)
    assert list(figure(without, "Order found").table) == ["batch"]
    assert without.notes == ["Where the order found was recorded is not shown: give run=."]


def test_what_is_used_twice_keeps_the_order_of_its_uses():
    order, recorded = np.array([1, 0, 0, 1]), np.array([0, 1, 1, 0])
    assert recorded_at(order, recorded).tolist() == [1, 0, 3, 2]


def test_memorisation_and_forgetting_are_those_of_the_result():
    result = known()
    page = order_page(result)
    np.testing.assert_allclose(
        figure(page, "Memorisation").spec["data"][0]["z"], result.values, rtol=1e-5
    )
    np.testing.assert_allclose(
        figure(page, "Held-out loss").spec["data"][0]["z"], -result.values, rtol=1e-5
    )
    (curve,) = figure(page, "Forgetting").spec["data"]
    np.testing.assert_allclose(curve["y"], result.values.mean(axis=0)[::-1], rtol=1e-5, atol=1e-12)
    assert "Predicted by galerkin." in figure(page, "Forgetting").told


def test_a_method_is_told_once_with_its_settings():
    named = compared()
    given, other = (replace(named, method=repr(MeanField(knots=n))) for n in (4, None))
    assert MeanField(knots=4) == MeanField(), "the default, so it is the method of that name"
    about = order_page(given, named, known(), other).about
    assert about["method"] == f"mean_field = {MeanField()!r}"
    assert about["method 2"] == f"galerkin = {Galerkin()!r}"
    assert about["method 3"] == repr(MeanField(knots=None)) and "method 4" not in about


def test_a_single_query_leaves_no_choice():
    page = order_page(found(n_queries=1), known(held_out=False))
    assert all(not figure.choices for figure in page.figures)
    assert "Held-out loss" not in [figure.title for figure in page.figures]


def test_figures_of_one_title_are_told_apart():
    titles = [figure.title for figure in order_page(compared(), compared(1)).figures]
    assert titles == ["Predicted and real", "Predicted and real 2"]


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Expected results \(OrderAnswer, .*got a dict"):
        order_report(tmp_path / "page.html", {})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="something to report"):
        order_report(tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "dark"), LOOKS)
def test_every_view_opens_and_can_be_read(browser, tmp_path, size, dark):
    path = write(tmp_path / "order.html", order_page(answer(), found(), known()))
    look_through(browser, path, "order", size, dark)


def test_a_query_is_chosen(browser, tmp_path):
    asked = answer()
    path = order_report(tmp_path / "order.html", asked)
    with opened(browser, path) as page:
        page.wait_for_timeout(150)
        drawn = "() => document.querySelector('.chart').data[0].z"
        np.testing.assert_allclose(
            page.evaluate(drawn), asked.positions().mean(axis=0).T, 1e-4, 1e-9
        )
        page.get_by_role("combobox").select_option("query 2")
        np.testing.assert_allclose(page.evaluate(drawn), asked.positions()[2].T, 1e-4, 1e-9)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Dark").click()
        np.testing.assert_allclose(page.evaluate(drawn), asked.positions()[2].T, 1e-4, 1e-9)


def test_a_page_of_shakespeare(browser, data_folder, tmp_path):
    """A GPT of characters: every batch from another part of the text, so that order matters."""
    pytest.importorskip("transformers")
    path = data_folder / "datasets" / "text" / "tinyshakespeare" / "input.txt"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    from benchmarks.order_problems import Setting, batches
    from llm_influence import SampleOrder, curriculum, memorisation

    problem = batches(Setting(width=16, n_layers=1, n_batches=8, rate=3e-3), seed=0)
    run, queries = problem.run, problem.queries
    best = curriculum(run, queries, n_random=8, anyway=True, progress=False)
    answers = SampleOrder().fit(run, progress=False).ask(queries)
    kept = memorisation(run, held_out=queries, progress=False)
    path = order_report(
        tmp_path / "shakespeare.html", answers, best, kept, run=run,
        title="Eight batches of Shakespeare in another order",
    )  # fmt: skip
    for size, dark in LOOKS:
        look_through(browser, path, "shakespeare-order", size, dark)
