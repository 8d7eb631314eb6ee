"""Curriculum, memorisation and comparison of orders, against really training in every order."""

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

from influence.change import Reordered
from influence.errors import InputError, StorageError, UnsupportedChangeError
from llm_influence.order.comparison import OrderComparison, compare_orders
from llm_influence.order.curriculum import Curriculum, curriculum
from llm_influence.order.mean_field import MeanField
from llm_influence.order.memorisation import (
    Memorisation,
    balanced_orders,
    measured_memorisation,
    memorisation,
)
from llm_influence.order.method import Asked, Built, Method
from tests.llm_influence.models import VOCABULARY
from tests.llm_influence.order.recorded import batches, recorded

QUERIES = batches(2, seed=9)


def trained(**options):
    """A run of a network that guesses the next token by the last one alone: trained in a blink."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(VOCABULARY, 8), nn.Tanh(), nn.Linear(8, VOCABULARY))
    return recorded(rate=2e-3, model=model, loss=next_token, **options)


def next_token(model, batch):
    ids = batch["input_ids"]
    logits = model(ids[:, :-1]).transpose(1, 2)
    return nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none").mean(dim=1)


@pytest.fixture(scope="module")
def run():
    return trained()


@pytest.fixture(scope="module")
def every():
    """Every order of four batches."""
    return [Reordered(np.array(order)) for order in permutations(range(4))]


@pytest.fixture(scope="module")
def found(run):
    return curriculum(run, QUERIES, "mean_field", n_random=5, anyway=True, progress=False)


@pytest.fixture(scope="module")
def measured(run, every):
    return measured_memorisation(run, every, held_out=QUERIES, progress=False)


@pytest.fixture(scope="module")
def known(run):
    return memorisation(run, "mean_field", held_out=QUERIES, progress=False)


@dataclass(frozen=True)
class Turned(Method):
    """Another method's losses times a factor, without effects of single places."""

    method: Method
    factor: float

    def build(self, run, seed, progress):
        return _TurnedBuilt(self.method.build(run, seed, progress), self.factor)


@dataclass
class _TurnedBuilt(Built):
    built: Built
    factor: float

    def ask(self, queries):
        return _TurnedAsked(self.built.ask(queries), self.factor)


@dataclass
class _TurnedAsked(Asked):
    asked: Asked
    factor: float

    def losses(self, orders):
        return self.factor * self.asked.losses(orders)

    def best(self, seed, progress):
        return self.asked.best(seed, progress)


def real(run, orders, queries):
    asked = run.queries(queries)
    return np.array([run.losses_at(run.train(o), asked) for o in orders]) - run.losses(asked)


def test_the_order_found_is_really_trained(run, found, every):
    np.testing.assert_allclose(found.retrained, real(run, [found.change], QUERIES)[0], atol=1e-12)
    changes = [Reordered(order) for order in found.random.orders]
    np.testing.assert_allclose(found.random.retrained, real(run, changes, QUERIES), atol=1e-12)
    means = real(run, every, QUERIES).mean(axis=1)
    best = means.min()
    assert found.retrained.mean() <= best + 0.1 * means.std(), "among the best of all 24 orders"
    better = sum(mean <= found.retrained.mean() for mean in found.random.retrained.mean(axis=1))
    assert found.rank == 1 + better
    frame = found.to_frame()
    assert frame.loc["recorded"].tolist() == [0, 0] and len(frame) == 7
    assert frame.loc["found", "retrained"] == found.retrained.mean()


def test_orders_of_calibration_do_not_judge(run, found):
    from llm_influence import SampleOrder

    used = np.stack(SampleOrder().fit(run, progress=False)._trained.orders[:3])
    assert not (used[:, None] == found.random.orders[None, :3]).all(axis=2).diagonal().all()


def test_an_order_of_samples(run):
    told = curriculum(
        run, QUERIES, "mean_field", unit="sample", n_random=3, anyway=True, progress=False
    )
    assert sorted(told.order) == list(range(12))
    expected = real(run.by("sample"), [told.change], QUERIES)[0]
    np.testing.assert_allclose(told.retrained, expected, atol=1e-12)


def test_predictions_that_do_not_rank_find_nothing(run):
    with pytest.raises(UnsupportedChangeError, match="anyway=True"):
        curriculum(run, QUERIES, Turned(MeanField(), -1.0), n_random=3, progress=False)


def test_comparing_is_retraining_and_goes_on(run, tmp_path):
    told = compare_orders(run, QUERIES, "mean_field", n=4, cache=tmp_path, progress=False)
    changes = [Reordered(order) for order in told.orders]
    np.testing.assert_allclose(told.retrained, real(run, changes, QUERIES), atol=1e-12)
    assert told.agreement.spearman.shape == (2,)
    n_files = len(list(tmp_path.iterdir()))
    again = compare_orders(run, QUERIES, "mean_field", n=5, cache=tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == n_files + 1, "one more order, one more training"
    np.testing.assert_array_equal(again.retrained[:4], told.retrained)
    assert "Spearman" in told.summary() and "Calibration beforehand: rank" in repr(told)


def test_the_measured_map_is_a_mean_over_orders(run, every, measured):
    both = real(run, every, [*(run.batch(i) for i in range(4)), *QUERIES])
    losses, elsewhere = both[:, :4], both[:, 4:].mean(axis=1)
    for batch in range(4):
        at = [[o.order[place] == batch for o in every] for place in range(4)]
        mean = np.array([losses[here, batch].mean() for here in at])
        np.testing.assert_allclose(measured.values[batch], mean - mean.mean(), atol=1e-12)
        mean = np.array([elsewhere[here].mean() for here in at])
        np.testing.assert_allclose(measured.generalisation[batch], mean - mean.mean(), atol=1e-12)


def test_the_predicted_map_is_that_of_real_training(known, measured):
    assert known.pearson(measured) > 0.97
    both = known.generalisation.ravel(), measured.generalisation.ravel()
    assert np.corrcoef(*both)[0, 1] > 0.9
    np.testing.assert_allclose(known.forgetting, known.values.mean(axis=0)[::-1])


def test_moving_batches_in_random_orders_gives_the_same_map(run, known):
    told = memorisation(
        run, Turned(MeanField(), 2.0), held_out=QUERIES, n_draws=100, progress=False
    )
    for name in ("values", "generalisation"):
        found, expected = getattr(told, name), 2 * getattr(known, name)
        np.testing.assert_allclose(found, expected, atol=0.1 * np.abs(expected).max())


def test_epochs_and_steps_of_several_batches():
    run = trained(epochs=2, accumulate=2)
    told = memorisation(run, "mean_field", progress=False)
    assert told.values.shape == (4, 8)
    for epoch in (slice(0, 4), slice(4, 8)):
        np.testing.assert_allclose(told.values[:, epoch].mean(axis=1), 0, atol=1e-12)
    pairs = told.values[:, 4:].mean(axis=0).reshape(2, 2).mean(axis=1)
    np.testing.assert_allclose(told.forgetting, pairs[::-1])


def test_balanced_orders_have_every_batch_everywhere():
    run = trained(n_batches=3, epochs=2)
    orders = balanced_orders(run, 2, seed=1)
    taken = np.array([change.order for change in orders])
    assert taken.shape == (6, 6)
    for place in range(6):
        assert np.bincount(taken[:, place]).tolist() == [2, 2, 2]
    for change in orders:
        run.places.check(change)
    other = balanced_orders(run, 2, seed=2)
    assert any((a.order != b.order).any() for a, b in zip(orders, other, strict=True))


def test_what_has_no_place_is_refused(run, every):
    one, two = batches(2)
    again = trained(taken=[one, two, two])
    with pytest.raises(InputError, match="no such epochs"):
        memorisation(again, progress=False)
    with pytest.raises(InputError, match=r"one query for each of the 4 batches, got 2"):
        memorisation(run, queries=QUERIES, progress=False)
    with pytest.raises(InputError, match="balanced_orders"):
        measured_memorisation(run, every[:2], progress=False)
    with pytest.raises(InputError, match=r"llm_influence\.record"):
        compare_orders("run", QUERIES)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="n_random"):
        curriculum(run, QUERIES, n_random=2)


def test_a_cache_that_cannot_be_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Expected a folder for the cache"):
        compare_orders(run, QUERIES, Unbuilt(), cache=tmp_path / "file", progress=False)


class Unbuilt(Method):
    """A method that must not be built."""

    def build(self, run, seed, progress):
        raise AssertionError("work was done first")


def test_results_are_saved_and_drawn(found, known, tmp_path):
    pytest.importorskip("matplotlib")
    for result in (found, found.random, known):
        result.save(tmp_path / "result.npz")
        again = type(result).load(tmp_path / "result.npz")
        assert again.summary() == result.summary()
    again = Memorisation.load(_saved(known, tmp_path))
    np.testing.assert_array_equal(again.values, known.values)
    np.testing.assert_array_equal(again.generalisation, known.generalisation)
    np.testing.assert_array_equal(again.forgetting, known.forgetting)
    again = Curriculum.load(_saved(found, tmp_path))
    assert again.rank == found.rank and again.random.calibration == found.random.calibration
    with pytest.raises(StorageError, match="order comparison"):
        OrderComparison.load(tmp_path / "result.npz")
    assert "after retraining" in found.plot().get_xlabel()
    assert known.plot().images[0].get_array().shape == (4, 4)
    assert known.plot_forgetting().lines[0].get_ydata().tolist() == known.forgetting.tolist()
    assert len(found.random.plot().lines) == 2 + 1
    assert known.plot_generalisation().images[0].get_array().tolist() == (
        known.generalisation.tolist()
    )
    with pytest.raises(InputError, match="held_out="):
        replace(known, generalisation=None).plot_generalisation()


def _saved(result, folder):
    result.save(folder / "result.npz")
    return folder / "result.npz"
