"""The leaf values of CatBoost against an independent forward pass in numpy."""

import catboost
import numpy as np
import pytest

from influence.errors import MissingParameterError, TrainingDataError, UnsupportedModelError
from tests.tree_influence.adapters.catboost_oracle import (
    TASKS,
    recomputed_leaves,
    rows,
    rows_with_categories,
    trained,
)
from tree_influence import LeafInfluence, trace
from tree_influence.adapters import catboost_steps, parse


def described(adapter, X, y, sample_weight=None):
    """Recipe, leaves, stored leaf values, target and weights, as the oracle takes them."""
    features = adapter.features(X)
    if adapter.classes is None:
        target = y.astype(np.float32).astype(np.float64)  # as CatBoost rounds it
    else:
        target = (y[:, None] == adapter.classes).argmax(axis=1).astype(float)
    weight = adapter.row_weights(target, sample_weight)
    stored = [adapter.ensemble.tree_values(t) for t in range(adapter.ensemble.n_trees)]
    recipe = adapter.recipe(adapter.leaves(features), target, weight)
    return recipe, adapter.leaves(features), stored, target, weight


def leaf_error(recipe, leaves, stored, target, weight):
    """Largest difference of recomputed and stored leaves over the largest leaf."""
    found = recomputed_leaves(leaves, stored, recipe, target, weight)
    return np.abs(np.concatenate(found) - np.concatenate(stored)).max() / max(
        np.abs(values).max() for values in stored
    )


TOLERANCE = {"regression": 1e-10, "binary": 1e-10, "multiclass": 1e-7}  # of the largest leaf

SETTINGS = [
    {},
    {"boosting_type": "Ordered"},
    {"bootstrap_type": "Bernoulli", "subsample": 0.5},
    {"bootstrap_type": "Bayesian", "bagging_temperature": 5},
    {"grow_policy": "Depthwise", "l2_leaf_reg": 0.5},
    {"grow_policy": "Lossguide", "score_function": "L2", "rsm": 0.5},
    {"leaf_estimation_iterations": 3, "leaf_estimation_backtracking": "No"},
    {"approx_on_full_history": True, "boosting_type": "Ordered"},
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("params", SETTINGS, ids=lambda params: ", ".join(params) or "default")
def test_leaves_recompute(task, params, weighted):
    X, y = rows(0, 300, task)
    weight = np.random.default_rng(1).integers(0, 4, 300) * 0.7 if weighted else None
    adapter = parse(trained(X, y, sample_weight=weight, **params))
    case = described(adapter, X, y, weight)
    assert case[0].inexact_because == ()
    error = leaf_error(*case)
    assert error <= TOLERANCE[task], "l2 times the mean weight, float32 weights, or the bias"


@pytest.mark.parametrize("task", TASKS)
def test_default_models_recompute(task):
    """A thousand rounds; Logloss takes ten Newton steps a tree, and refuses some."""
    X, y = rows(1, 400, task)
    adapter = parse(trained(X, y, iterations=None))
    assert adapter.ensemble.n_rounds == 1000
    case = described(adapter, X, y)
    assert case[0].n_steps == (10 if task == "binary" else 1)
    assert case[0].inexact_because == ()
    assert leaf_error(*case) <= TOLERANCE[task]


@pytest.mark.parametrize(
    "params",
    [
        {"class_weights": [1, 4]},
        {"class_weights": {"yes": 3, "no": 0.5}},
        {"auto_class_weights": "Balanced"},
        {"auto_class_weights": "SqrtBalanced"},
        {"scale_pos_weight": 2.5},
        {"boost_from_average": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights(params, weighted):
    X, y = rows(2, 300, "binary")
    weight = np.random.default_rng(2).random(300) if weighted else None
    adapter = parse(trained(X, y, sample_weight=weight, **params))
    assert leaf_error(*described(adapter, X, y, weight)) <= 1e-10


def test_class_weights_of_many_classes():
    X, y = rows(3, 300, "multiclass")
    adapter = parse(trained(X, y, class_weights={"top": 5, "low": 1, "mid": 2}))
    assert leaf_error(*described(adapter, X, y)) <= TOLERANCE["multiclass"]


def test_targets_far_from_zero():
    """In float32, numbers around 1e6 are 1/16 apart."""
    X, y = rows(4, 300, "regression")
    run = trace(trained(X, y + 1e6), X, y + 1e6)
    assert run.replay.error.largest <= 1e-7, "the target is rounded to float32 in training"


@pytest.mark.parametrize("task", TASKS)
def test_one_hot_categories_recompute(task):
    X, y = rows_with_categories(4, 300, task)
    adapter = parse(trained(X, y, ["colour", "store"], one_hot_max_size=10))
    case = described(adapter, X, y)
    assert case[0].inexact_because == ()
    assert leaf_error(*case) <= TOLERANCE[task]


@pytest.mark.parametrize("task", TASKS)
def test_ordered_target_statistics_are_named(task):
    """Training sees, in place of a category, a statistic of the rows before: leaves differ."""
    X, y = rows_with_categories(5, 300, task)
    case = described(parse(trained(X, y, ["colour", "store"])), X, y)
    assert [one.partition(" (")[0] for one in case[0].inexact_because] == [
        "ordered target statistics of categorical features"
    ]
    assert leaf_error(*case) > 1e-3


class TestRefusedSteps:
    """Ten Newton steps in each tree, some of which CatBoost refuses or halves."""

    def models(self):
        for seed in range(4):
            X, y = rows(seed, 300, "binary", missing=0)
            params = {"leaf_estimation_iterations": 10, "learning_rate": 0.1, "depth": 3}
            yield X, y, trained(X, y, iterations=30, **params)

    def test_are_found(self):
        n_refused = 0
        for X, y, model in self.models():
            case = described(parse(model), X, y)
            assert case[0].inexact_because == ()
            assert leaf_error(*case) <= 1e-10
            n_refused += int((case[0].taken == 0).any(axis=1).sum())
        assert n_refused > 0, "these models take every step: they test nothing"

    def test_do_not_excuse_other_rows(self):
        X, y, model = next(self.models())
        recipe = described(parse(model), X[::-1], y)[0]
        assert recipe.taken is None
        assert recipe.inexact_because == ()
        with pytest.raises(TrainingDataError, match="not the rows"):
            trace(model, X[::-1], y)

    def test_are_named_where_there_are_too_many_to_try(self, monkeypatch):
        """Leaves of many rows: whole steps are tried, but not every outcome."""
        X, y = rows(0, 300, "regression", missing=0)
        params = {"loss_function": "Lq:q=1.5", "leaf_estimation_iterations": 6, "depth": 2}
        adapter = parse(trained(X, y, iterations=20, learning_rate=1, **params))
        recipe = described(adapter, X, y)[0]
        assert recipe.inexact_because == ()
        assert recipe.taken is not None
        assert ((recipe.taken > 0) & (recipe.taken < 1)).any(), "only whole steps: nothing tested"
        monkeypatch.setattr(catboost_steps, "MOST_TRIED", 300)
        recipe = described(adapter, X, y)[0]
        assert recipe.inexact_because == ("leaf_estimation_backtracking",)

    @pytest.mark.parametrize("task", ["binary", "multiclass"])
    def test_many_steps(self, task):
        X, y = rows(5, 100, task)
        case = described(parse(trained(X, y, leaf_estimation_iterations=12)), X, y)
        assert case[0].inexact_because == ()
        assert leaf_error(*case) <= TOLERANCE[task]

    def test_influence_is_the_derivative_of_the_steps_taken(self):
        for X, y, model in self.models():
            recipe, leaves, _, target, weight = described(parse(model), X, y)
            assert recipe.taken is not None
            if (recipe.taken == 1).all():
                continue
            run = trace(model, X, y)
            assert run.replay.error.largest <= 1e-10
            values = LeafInfluence().fit(run).explain(X[:2], y[:2], progress=False).values
            for j in (0, 17):
                losses = []
                for sign in (1, -1):
                    moved = weight + sign * 1e-4 * (np.arange(300) == j)
                    losses.append(self.refit_losses(recipe, leaves, target, moved)[:2])
                slope = (losses[0] - losses[1]) / 2e-4
                np.testing.assert_allclose(values[j], -slope, rtol=1e-5, atol=1e-9)
            return
        pytest.fail("no model refuses a step")

    def refit_losses(self, recipe, leaves, target, weight):
        """Loss of every row after a refit on fixed structures, tree by tree."""
        score = np.tile(recipe.start, (300, 1))
        first = 0
        for t in range(len(leaves)):
            value = np.zeros((2**3, 1))
            last = first + len(value)
            one = type(recipe)(
                recipe.loss, recipe.learning_rate[[t]], recipe.l2[first:last], recipe.start,
                recipe.folded[[t]], n_steps=recipe.n_steps, taken=recipe.taken[[t]],
            )  # fmt: skip
            (value,) = recomputed_leaves(leaves[[t]], [value], one, target, weight, score)
            score = score + value[leaves[t]]
            first = last
        return np.logaddexp(0, score[:, 0]) - target * score[:, 0]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"monotone_constraints": [1, 0, 0], "model_shrink_rate": 0}, ("monotone_constraints",)),
        ({"monotone_constraints": [1, 0, 0]}, ("monotone_constraints", "model_shrink_rate")),
        ({"langevin": True, "diffusion_temperature": 1e4}, ("model_shrink_rate",)),
        ({"posterior_sampling": True}, ("model_shrink_rate",)),
        (
            {"langevin": True, "model_shrink_rate": 0, "leaf_estimation_method": "Gradient"},
            ("langevin",),
        ),
    ],
    ids=str,
)
def test_named_as_inexact(params, named):
    X, y = rows(9, 200, "regression")
    run = trace(trained(X, y, **params), X, y, allow_inexact=True)
    assert run.replay.recipe.inexact_because == named
    assert run.replay.error.largest > 1e-5, "the leaves follow the formula: no reason to name one"


def test_langevin_leaves_newton_steps_alone():
    X, y = rows(9, 200, "regression")
    params = {"langevin": True, "model_shrink_rate": 0, "diffusion_temperature": 1}
    case = described(parse(trained(X, y, **params)), X, y)
    assert case[0].inexact_because == ()
    assert leaf_error(*case) <= 1e-10


@pytest.mark.parametrize("mode", ["Constant", "Decreasing"])
@pytest.mark.parametrize("task", TASKS)
def test_a_shrinking_model(mode, task):
    """What is left of each tree is known, so that the leaf error is only that of the scores."""
    X, y = rows(10, 200, task)
    params = {"model_shrink_rate": 0.05, "model_shrink_mode": mode, "learning_rate": 0.3}
    run = trace(trained(X, y, iterations=5, **params), X, y)
    recipe, error = run.replay.recipe, run.replay.error
    by_round = [0.3] * 4 if mode == "Constant" else [1, 1 / 2, 1 / 3, 1 / 4]
    left = np.cumprod(1 - 0.05 * np.array(by_round)[::-1])[::-1]
    np.testing.assert_allclose(recipe.learning_rate, 0.3 * np.append(left, 1), rtol=1e-6)
    assert 1e-5 < error.largest < 0.1
    assert error.median < 0.02, "the shares that are left of the trees are wrong"


@pytest.mark.parametrize("has_time", [False, True])
@pytest.mark.parametrize("fraction", [0.1, 0.25])
@pytest.mark.parametrize("task", TASKS)
def test_rows_held_out_by_eval_fraction(task, fraction, has_time):
    X, y = rows(11, 200, task)
    weight = np.random.default_rng(0).uniform(0.5, 2, 200)
    params = {"eval_fraction": fraction, "has_time": has_time, "use_best_model": False}
    model = trained(X, y, sample_weight=weight, **params)
    run = trace(model, X, y, weight)
    assert abs((run.weight == 0).mean() - fraction) <= 0.02
    assert run.replay.error.largest <= 1e-7, "other rows were held out"
    again = run.adapter.refit(X[run.weight > 0], y[run.weight > 0], weight[run.weight > 0])
    assert again.ensemble.n_trees == run.adapter.ensemble.n_trees
    values = LeafInfluence().fit(run).explain(X[:2], y[:2], progress=False).values
    assert (values[run.weight == 0] == 0).all() and (values != 0).any()


@pytest.mark.parametrize("kind", ["cbm", "json"])
def test_a_saved_model_knows_what_was_held_out(tmp_path, kind):
    X, y = rows(12, 200, "binary")
    model = trained(X, y, eval_fraction=0.2, has_time=True)
    model.save_model(str(tmp_path / "model"), format=kind)
    assert trace(tmp_path / "model", X, y).replay.error.largest <= 1e-10


def test_a_changed_scale_is_refused():
    X, y = rows(8, 100, "regression")
    model = trained(X, y)
    model.set_scale_and_bias(2.0, 1.0)
    adapter = parse(model)
    features = adapter.features(X)
    raw = adapter.ensemble.raw(adapter.leaves(features))
    np.testing.assert_allclose(raw, adapter.library_raw(features), rtol=1e-12)
    with pytest.raises(UnsupportedModelError, match="scale=1, got 2"):
        described(adapter, X, y)


@pytest.mark.parametrize("task", TASKS)
def test_training_continued_from_another_model(task):
    """With the same settings the trees are those of one training; what it was is not stored."""
    X, y = rows(10, 200, task)
    first = trained(X, y, learning_rate=0.3, depth=2)
    more = type(first)(
        iterations=5, learning_rate=0.3, depth=2, verbose=0, allow_writing_files=False
    )
    run = trace(more.fit(X, y, init_model=first), X, y)
    assert run.adapter.ensemble.n_rounds == 13
    assert run.replay.recipe.inexact_because == ("training continued from another model",)
    assert run.replay.error.largest <= 1e-7
    other = type(first)(
        iterations=5, learning_rate=0.03, depth=2, verbose=0, allow_writing_files=False
    )
    with pytest.raises(TrainingDataError, match="continued from another"):
        trace(other.fit(X, y, init_model=first), X, y)


def test_a_sum_of_models_has_lost_its_recipe():
    X, y = rows(13, 100, "binary")
    both = catboost.sum_models([trained(X, y), trained(X, y, random_seed=1)], weights=[0.5, 0.5])
    adapter = parse(both)
    assert adapter.classes is not None
    target = (y == "yes").astype(float)
    with pytest.raises(MissingParameterError, match="learning_rate"):
        adapter.recipe(adapter.leaves(adapter.features(X)), target, np.ones(100))
    p = np.mean(adapter.loss().value(target, adapter.library_raw(adapter.features(X))))
    assert p < np.log(2), "a sum of models still knows its loss"
