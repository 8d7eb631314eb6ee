"""Trainings of few or no other orders, and what is said of few."""

import numpy as np
import pytest
import torch

from influence.change import Reordered
from influence.errors import InputError, UnsupportedChangeError
from llm_influence import SampleOrder, compare_orders, curriculum
from llm_influence.order.comparison import OrderComparison
from llm_influence.order.curriculum import Curriculum
from llm_influence.order.documents import of_comparison
from llm_influence.order.places import places
from llm_influence.order.reporting import order_page
from tests.llm_influence.order.tiny import adapted, pairs

QUERIES = pairs(2, seed=5)


def compared(n: int) -> OrderComparison:
    rng = np.random.default_rng(0)
    orders = np.stack([np.roll(np.arange(12), k) for k in range(n)])
    real = rng.normal(size=(n, 2))
    return OrderComparison(orders, real + rng.normal(size=(n, 2)), real, "pair", None)


@pytest.mark.parametrize(("n", "few"), [(7, True), (8, False)])
def test_of_few_orders_no_interval_is_stated_anywhere(n: int, few: bool) -> None:
    found = compared(n)
    (page,) = order_page(found).figures
    stated = of_comparison(adapted(), found)["agreement"]["interval"]
    assert (stated is None) == few
    assert stated == found.interval
    for told in (found.summary(), repr(found), found._repr_html_(), page.told):
        assert (f"{n} orders, which is few" in told) == few
        assert ("[" in told.split("Spearman")[1].split("lope")[0]) != few


def test_a_run_of_one_batch_has_no_other_order() -> None:
    single = adapted(batches=pairs(1), order=[0, 0, 0])
    for order, run in (
        (SampleOrder("pair"), single),
        (SampleOrder("pair", "sample", calibrate=0), adapted(batches=pairs(1))),
    ):
        with pytest.raises(InputError, match=r"every order of this one, .* same training"):
            order.fit(run, progress=False)
    again = adapted(batches=pairs(1)).by("sample")
    turned = again.train(Reordered(again.places.recorded[::-1].copy()))
    torch.testing.assert_close(turned, again.final, rtol=1e-10, atol=1e-12)
    SampleOrder("pair", "sample", calibrate=0).fit(single, progress=False)  # steps differ
    with pytest.raises(InputError, match=r"every order of this one, .* same training"):
        compare_orders(single, QUERIES, "pair", progress=False)


def test_of_two_batches_the_lack_of_orders_is_the_reason() -> None:
    run = adapted(batches=pairs(2))
    answer = SampleOrder("pair").fit(run, progress=False).ask(QUERIES)
    with pytest.raises(UnsupportedChangeError, match="has only 1 other order, too few") as refused:
        answer.best(progress=False)
    assert "Judge by more orders" not in str(refused.value)
    assert answer.best(anyway=True, progress=False).order.size == 2
    for ask in (compare_orders, curriculum):
        with pytest.raises(InputError, match=r"2 items in 2 steps, has only 1; .*more batches"):
            ask(run, QUERIES, "pair", progress=False)
    with pytest.raises(UnsupportedChangeError, match="Judge by more orders"):
        poor = SampleOrder("pair", calibrate=1).fit(adapted(), progress=False).ask(QUERIES)
        poor.best(progress=False)


def test_compared_orders_are_other_trainings() -> None:
    run = adapted(batches=pairs(4), record_options={"accumulate": 2})
    found = compare_orders(run, QUERIES, "pair", n=20, progress=False)
    assert len(found.orders) == run.places.n_different(found.orders) == 5, "6 trainings, 1 recorded"
    assert found.interval is None
    assert (np.abs(found.retrained) > 1e-12).any(axis=1).all()


def test_an_order_that_was_drawn_too_does_not_beat_itself() -> None:
    order = np.array([1, 0, 2])
    random = OrderComparison(
        np.array([[1, 0, 2], [0, 2, 1], [2, 1, 0], [1, 0, 2]]), np.zeros((4, 1)),
        np.array([[-1.0], [0.5], [0.2], [-1.0]]), "pair", None,
    )  # fmt: skip
    found = Curriculum(order, np.array([-1.0]), np.array([-1.0]), random)
    assert found.beats_all
    assert "better than all 2 random orders" in found.verdict


def test_orders_within_a_step_are_one_training() -> None:
    found = places([np.array([0, 1]), np.array([2, 3])], 1, 4)
    orders = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 1, 0, 3]])
    assert found.n_different(orders) == 2 and not found.fixed
    uneven = places([np.array([0]), np.array([1, 2])], 2, 3)  # 0 counts twice as much
    assert uneven.n_different(np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2]])) == 2
    assert not uneven.fixed and places([np.array([0]), np.array([1])], 2, 2).fixed
