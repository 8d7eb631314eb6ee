"""Data Shapley against exact enumeration: of all sets of rows, and of all orders."""

import itertools
import math

import joblib
import numpy as np
import pytest
from sklearn import ensemble
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from influence import Influence, Reweighted, Without
from influence.errors import InputError, StorageError
from tests.tree_influence import models
from tests.tree_influence.test_loo import loss
from tree_influence import trace
from tree_influence.data_shapley import (
    DataShapley,
    Game,
    SetLosses,
    constant_scores,
    new_game,
    walk,
)


def shapley(value, n_players):
    """sum over sets S without i of |S|! (n - |S| - 1)! / n! (value(S) - value(S and i))."""
    players = range(n_players)
    found = np.zeros((n_players, len(value(()))))
    for i in players:
        others = [j for j in players if j != i]
        for size in range(n_players):
            share = math.factorial(size) * math.factorial(n_players - size - 1)
            for chosen in itertools.combinations(others, size):
                gain = value(chosen) - value(tuple(sorted((*chosen, i))))
                found[i] += share / math.factorial(n_players) * gain
    return found


class Six:
    """Six rows and three queries of a small boosting, and the exact values by hand."""

    def __init__(self, task):
        X, y, X_test, y_test = models.make_data(task, n_train=6, n_test=3, seed=2)
        kind = ensemble.GradientBoostingRegressor
        if task == "logistic":
            kind = ensemble.GradientBoostingClassifier
        model = kind(n_estimators=2, max_depth=2, learning_rate=0.5, random_state=0).fit(X, y)
        self.task, self.model, self.data, self.asked = task, model, (X, y), (X_test, y_test)
        self.run = trace(model, X, y)
        self.known = {}
        self.exact = shapley(self.value, 6)

    def value(self, rows):
        """Loss of the queries after fitting on these rows by hand."""
        rows = tuple(map(int, rows))
        if rows not in self.known:
            self.known[rows] = self._value(list(rows))
        return self.known[rows]

    def _value(self, rows):
        (X, y), (X_test, y_test) = self.data, self.asked
        if len(set(y[rows])) < 2:
            if self.task == "squared":
                return 0.5 * (y.mean() - y_test) ** 2
            return -np.log(np.where(y_test == 1, y.mean(), 1 - y.mean()))
        model = type(self.model)(**self.model.get_params()).fit(X[rows], y[rows])
        return loss(self.task, model, X_test, y_test)


@pytest.fixture(scope="module", params=["squared", "logistic"])
def six(request):
    return Six(request.param)


def test_the_mean_over_all_orders_is_the_shapley_value(six):
    game = Game(6, np.arange(6), six.value(()), six.value(range(6)), six.value)
    orders = map(np.array, itertools.permutations(range(6)))
    found = np.mean([walk(game, order, 1, 0.0)[0] for order in orders], axis=0)
    np.testing.assert_allclose(found, six.exact, atol=1e-12)


def test_losses_of_every_set_of_rows(six):
    game = new_game(six.run, six.run.queries(*six.asked), min_rows=2)
    np.testing.assert_allclose(game.empty, six.value(()), rtol=1e-6)
    np.testing.assert_allclose(game.full, six.value(range(6)), rtol=1e-9)
    for rows in itertools.combinations(range(6), 3):
        found = game.losses(np.array(rows))
        if len(set(six.data[1][list(rows)])) < 2:
            assert found is None, "no model can be trained on one class"
        else:
            np.testing.assert_allclose(found, six.value(rows), rtol=1e-9)
    assert game.losses(np.array([4])) is None
    assert new_game(six.run, six.run.queries(*six.asked), 5).losses(np.arange(4)) is None


def test_sampled_orders_come_near_and_say_how_far(six):
    estimator = DataShapley(60, tolerance=0.0).fit(six.run)
    found = estimator.explain(*six.asked, progress=False)
    z = (found.values - six.exact) / estimator.standard_error_
    assert np.abs(z).max() < 4
    assert 0.5 < np.sqrt((z**2).mean()) < 1.6, "the standard error is not that of the values"
    spread = np.sqrt(found.values.var(axis=0).mean())
    stated = np.sqrt((estimator.standard_error_**2).mean()) / spread
    assert found.provenance.run["standard_error_over_spread"] == pytest.approx(stated)
    assert "standard error over spread" in repr(found)


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("library", models.LIBRARIES)
def test_values_add_up_to_what_training_gains(library, group):
    fitted = models.fit(library, "softmax", n_train=18)
    fitted.weight[4] = 0.0
    fitted.model.fit(fitted.X, fitted.y, sample_weight=fitted.weight)
    run = trace(fitted.model, fitted.X, fitted.y, fitted.weight)
    estimator = DataShapley(2, group=group, tolerance=0.0).fit(run)
    found = estimator.explain(fitted.X_test, fitted.y_test, progress=False).values
    kept = np.flatnonzero(fitted.weight)
    again = type(fitted.model)(**fitted.model.get_params())
    again.fit(fitted.X[kept], fitted.y[kept], sample_weight=fitted.weight[kept])
    share = np.bincount(fitted.y, fitted.weight) / fitted.weight.sum()
    gain = -np.log(share[fitted.y_test]) - loss("softmax", again, fitted.X_test, fitted.y_test)
    np.testing.assert_allclose(found.sum(axis=0), gain, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[4], 0.0)
    np.testing.assert_array_equal(estimator.standard_error_[4], 0.0)


@pytest.mark.parametrize("group", [1, 2, 3])
def test_blocks_give_the_values_of_a_game_that_adds_up(group):
    worth = np.random.default_rng(0).normal(size=(7, 2))

    def left(rows):
        return 5.0 - worth[rows].sum(axis=0)

    game = Game(7, np.arange(7), left([]), left(np.arange(7)), left)
    orders = map(np.array, itertools.permutations(range(7)))
    found = np.mean([walk(game, order, group, 0.0)[0] for order in orders], axis=0)
    np.testing.assert_allclose(found, worth, atol=1e-12)


def test_an_order_ends_once_little_is_left_to_gain():
    def left(rows):
        return np.array([2.0, 0.0]) * 0.1 ** len(rows)

    game = Game(6, np.arange(6), left([]), left(range(6)), left)
    shares, n_trainings = walk(game, np.array([3, 0, 5, 1, 4, 2]), 1, 0.05)
    np.testing.assert_allclose(shares[:, 0], [0.18, 0, 0, 1.8, 0, 0], atol=1e-12)
    assert n_trainings == 2
    assert walk(game, np.arange(6), 1, 0.0)[1] == 5, "all rows together are not trained again"


def test_the_number_of_workers_changes_no_bit(six):
    estimator = DataShapley(5, seed=3).fit(six.run)
    alone = estimator.explain(*six.asked, n_jobs=1, progress=False)
    with joblib.parallel_config("threading", n_jobs=2):
        found = estimator.explain(*six.asked, progress=False)
    np.testing.assert_array_equal(found.values, alone.values)
    other = DataShapley(5, seed=4).fit(six.run).explain(*six.asked, progress=False)
    assert (other.values != alone.values).any()


def test_a_checkpoint_goes_on_where_it_ended(six, tmp_path):
    path = tmp_path / "orders.npz"
    whole = DataShapley(6).fit(six.run).explain(*six.asked, progress=False)
    DataShapley(4).fit(six.run).explain(*six.asked, checkpoint=path, progress=False)
    resumed = DataShapley(6).fit(six.run).explain(*six.asked, checkpoint=path, progress=False)
    np.testing.assert_array_equal(resumed.values, whole.values)
    assert resumed.provenance.run == whole.provenance.run
    resumed.save(tmp_path / "values.npz")
    assert Influence.load(tmp_path / "values.npz").provenance == resumed.provenance


def test_a_killed_computation_goes_on(six, tmp_path, monkeypatch):
    path, left = tmp_path / "orders.npz", iter(range(14))
    trained = SetLosses.__call__

    def killed(self, rows):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return trained(self, rows)

    whole = DataShapley(6, tolerance=0.0).fit(six.run).explain(*six.asked, progress=False)
    estimator = DataShapley(6, tolerance=0.0).fit(six.run)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SetLosses, "__call__", killed)
        estimator.explain(*six.asked, checkpoint=path, n_jobs=1, progress=False)
    resumed = estimator.explain(*six.asked, checkpoint=path, n_jobs=1, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["orders.npz"], "a part is left over"
    np.testing.assert_array_equal(resumed.values, whole.values)


def test_a_checkpoint_of_something_else_is_refused(six, tmp_path):
    path = tmp_path / "orders.npz"
    X_test, y_test = six.asked
    DataShapley(2).fit(six.run).explain(X_test, y_test, checkpoint=path, progress=False)
    for estimator, asked in (
        (DataShapley(2, seed=1), (X_test, y_test)),
        (DataShapley(2, tolerance=0.0), (X_test, y_test)),
        (DataShapley(2), (X_test[:2], y_test[:2])),
        (DataShapley(2), (X_test, np.roll(y_test, 1))),
        (DataShapley(2), (X_test + np.array([0, 0, 0, 1e-9]), y_test)),
    ):
        with pytest.raises(InputError, match="belongs to others"):
            estimator.fit(six.run).explain(*asked, checkpoint=path, progress=False)
    path.write_bytes(b"cut off")
    with pytest.raises(StorageError, match="truncated"):
        DataShapley(2).fit(six.run).explain(X_test, y_test, checkpoint=path, progress=False)


def test_a_checkpoint_of_another_recipe_is_refused_whose_trees_are_the_same(six, tmp_path):
    path = tmp_path / "orders.npz"
    other = clone(six.model).set_params(min_impurity_decrease=1e-9).fit(*six.data)
    run = trace(other, *six.data)
    assert run.fingerprint == six.run.fingerprint
    DataShapley(2).fit(six.run).explain(*six.asked, checkpoint=path, progress=False)
    with pytest.raises(InputError, match="belongs to others"):
        DataShapley(2).fit(run).explain(*six.asked, checkpoint=path, progress=False)


def test_sets_that_the_recipe_cannot_train_on_say_what_to_raise():
    X, y, X_test, y_test = models.make_data("squared", n_train=12)
    model = make_pipeline(PCA(3), ensemble.GradientBoostingRegressor(n_estimators=2)).fit(X, y)
    with pytest.raises(InputError, match="raise min_rows, now 2"):
        DataShapley(2).fit(model, X, y).explain(X_test, y_test, progress=False)
    estimator = DataShapley(2, min_rows=3).fit(model, X, y)
    assert np.isfinite(estimator.explain(X_test, y_test, progress=False).values).all()


def test_trainings_are_bounded(six):
    estimator = DataShapley(100, tolerance=0.0, max_trainings=14).fit(six.run)
    stated = estimator.explain(*six.asked, progress=False).provenance.run
    assert 14 <= int(stated["trainings"]) < 14 + 5
    few = DataShapley(100, max_trainings=1).fit(six.run).explain(*six.asked, progress=False)
    assert few.provenance.run["permutations"] == "2"


def test_changes_of_weights_add_up(six):
    estimator = DataShapley(3).fit(six.run)
    values = estimator.explain(*six.asked, progress=False).values
    twice = np.array([1, 2, 1, 1, 0, 1.0])
    np.testing.assert_allclose(
        estimator.predict(Without([1, 3]), *six.asked), values[[1, 3]].sum(axis=0)
    )
    np.testing.assert_allclose(
        estimator.predict(Reweighted(twice), *six.asked), values[4] - values[1]
    )


def test_the_constant_score_is_that_of_the_loss():
    X, y, _, _ = models.make_data("squared", n_train=41)
    of_median = ensemble.GradientBoostingRegressor(loss="absolute_error", n_estimators=3)
    found = constant_scores(trace(of_median.fit(X, y), X, y))
    np.testing.assert_allclose(found, np.median(y), atol=1e-6)
    label = np.digitize(y, [-0.6, 0.6])
    forest = ensemble.RandomForestClassifier(n_estimators=3, random_state=0).fit(X, label)
    np.testing.assert_allclose(constant_scores(trace(forest, X, label)), np.bincount(label) / 41)


def test_wrong_parameters_are_named():
    for wrong in ({"n_permutations": 1}, {"group": 0}, {"tolerance": 1.0}, {"min_rows": 1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            DataShapley(**wrong)
    fitted = models.fit("sklearn_gb", "squared")
    with pytest.raises(InputError, match="at most half"):
        DataShapley(group=21).fit(fitted.model, fitted.X, fitted.y, fitted.weight)
