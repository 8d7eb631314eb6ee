"""Trainings of few or no other orders, and what is said of few."""

import numpy as np
import pytest
import torch

from influence.change import Reordered
from influence.errors import InputError, UnsupportedChangeError
from llm_influence import SampleOrder, compare_orders, curriculum
from llm_influence.order.comparison import OrderComparison
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


def test_equal_orders_count_once() -> None:
    one = compared(3)
    both = one.predicted, one.retrained
    predicted, real = (np.tile(effects, (4, 1)) for effects in both)
    many = OrderComparison(np.tile(one.orders, (4, 1)), predicted, real, "pair", None)
    assert many.interval is None and "12 orders (3 different), which is few" in many.summary()


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
    with pytest.raises(InputError, match=r"at least 3 different orders .* are only 1"):
        compare_orders(single, QUERIES, "pair", progress=False)


def test_of_two_batches_the_lack_of_orders_is_the_reason() -> None:
    run = adapted(batches=pairs(2))
    answer = SampleOrder("pair").fit(run, progress=False).ask(QUERIES)
    with pytest.raises(UnsupportedChangeError, match="has only 1 other order, too few") as refused:
        answer.best(progress=False)
    assert "Judge by more orders" not in str(refused.value)
    assert answer.best(anyway=True, progress=False).order.size == 2
    for ask in (compare_orders, curriculum):
        with pytest.raises(InputError, match=r"at least 3 .*2 items in 2 steps, are only 2"):
            ask(run, QUERIES, "pair", progress=False)
    with pytest.raises(UnsupportedChangeError, match="Judge by more orders"):
        poor = SampleOrder("pair", calibrate=1).fit(adapted(), progress=False).ask(QUERIES)
        poor.best(progress=False)


def test_orders_within_a_step_are_one_training() -> None:
    found = places([np.array([0, 1]), np.array([2, 3])], 1, 4)
    orders = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 1, 0, 3]])
    assert found.n_different(orders) == 2 and not found.fixed
    uneven = places([np.array([0]), np.array([1, 2])], 2, 3)  # 0 counts twice as much
    assert uneven.n_different(np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2]])) == 2
    assert not uneven.fixed and places([np.array([0]), np.array([1])], 2, 2).fixed
