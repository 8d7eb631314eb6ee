"""Models and tables as people bring them that once gave wrong numbers or errors without a name."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from influence import Without
from influence.errors import InputError, UnsupportedModelError
from tests.tree_influence import models
from tree_influence import BoostIn, LeafInfluence, retrainer, trace

RNG = np.random.default_rng(7)
X = RNG.normal(size=(200, 3)).round(3)
Y = (X[:, 0] + X[:, 1] ** 2 + 0.4 * RNG.normal(size=200) > 1).astype(int)


@pytest.mark.parametrize("saved", [False, True])
def test_a_schedule_of_learning_rates_from_the_average(saved):
    """LightGBM's text does not tell the rate of the first round, which holds the average."""
    import lightgbm

    rates = [0.01, 0.05, 0.2, 0.1]
    booster = lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1},
        lightgbm.Dataset(X, Y), 4,
        callbacks=[lightgbm.reset_parameter(learning_rate=rates)],
    )  # fmt: skip
    if saved:
        booster = lightgbm.Booster(model_str=booster.model_to_string())
    run = trace(booster, X, Y)
    np.testing.assert_allclose(run.replay.recipe.learning_rate, rates, rtol=1e-5)
    assert run.replay.error.largest < 1e-5


@pytest.mark.parametrize("kind", ["json", "ubj"])
def test_the_file_of_an_estimator_that_stopped_early(kind, tmp_path):
    """It predicts with the best rounds, as the estimator does that is loaded from it."""
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=3, learning_rate=0.5)
    noisy = np.where(RNG.random(200) < 0.3, 1 - Y, Y)
    model.fit(X[:120], noisy[:120], eval_set=[(X[120:], noisy[120:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    model.save_model(tmp_path / f"m.{kind}")
    given = X[:120], noisy[:120]
    from_file = trace(tmp_path / f"m.{kind}", *given)
    assert len(from_file.leaves) == len(trace(model, *given).leaves) == model.best_iteration + 1
    again = xgboost.XGBClassifier()
    again.load_model(tmp_path / f"m.{kind}")
    assert list(from_file.predictions(X)) == list(again.predict(X))
    assert len(trace(model.get_booster(), *given).leaves) > len(from_file.leaves)


@pytest.mark.parametrize("saved", [False, True])
def test_catboosts_probability_threshold(saved, tmp_path):
    import catboost

    model = models.make("catboost", "logistic", 5).fit(X, Y)
    model.set_probability_threshold(0.7)
    expected = list(model.predict(X))
    assert expected != list(models.make("catboost", "logistic", 5).fit(X, Y).predict(X))
    if saved:
        model.save_model(str(tmp_path / "m.cbm"))
        model = catboost.CatBoost().load_model(str(tmp_path / "m.cbm"))
    assert list(trace(model, X, Y).predictions(X)) == expected


def test_xgboosts_margin_is_cut_where_it_cuts_it():
    import xgboost

    model = xgboost.XGBClassifier(objective="binary:logitraw", n_estimators=4).fit(X, Y)
    assert list(trace(model, X, Y).predictions(X)) == list(model.predict(X))


def test_whole_numbers_as_names_of_columns():
    table = pd.DataFrame(X, columns=[0, 1, 2])
    model = models.make("catboost", "logistic", 3).fit(table, Y)
    run = trace(model, table, Y)
    assert list(run.predictions(table)) == list(model.predict(table))
    with pytest.raises(InputError, match="Expected column '0' at position 0"):
        run.queries(table[[2, 0, 1]], Y)


def test_codes_in_place_of_categories():
    town = pd.Categorical(RNG.choice(["Ulm", "Rom", "Bonn"], 200))
    table = pd.DataFrame({"x": X[:, 0], "town": town})
    model = models.make("sklearn_hist", "logistic", 3).set_params(categorical_features="from_dtype")
    run = trace(model.fit(table, Y), table, Y)
    with pytest.raises(InputError, match="not codes"):
        run.queries(table.assign(town=town.codes), Y)
    unseen = table.assign(town="Oslo")  # text of no known category is missing, as in the library
    assert np.isfinite(run.losses(run.queries(unseen, Y))).all()


@pytest.mark.parametrize("dtype", ["datetime64[ns]", "timedelta64[s]", "complex128"])
def test_targets_that_only_look_like_numbers(dtype):
    case = models.fit("lightgbm", "squared", weighted=False)
    run = trace(case.model, case.X, case.y)
    with pytest.raises(InputError, match="dtype"):
        run.queries(case.X, np.arange(40).astype(dtype))


def test_a_target_of_one_column():
    case = models.fit("lightgbm", "logistic", n_train=60, weighted=False)
    expected = trace(case.model, case.X, case.y).fingerprint
    for y in (case.y[:, None], pd.DataFrame({"y": case.y})):
        assert trace(case.model, case.X, y).fingerprint == expected


def test_weights_are_kept_as_they_were():
    case = models.fit("lightgbm", "logistic", n_train=60)
    given = case.weight.copy()
    run = trace(case.model, case.X, case.y, given)
    before = retrainer(run, case.X_test, case.y_test)(Without([2]))
    given[:] = 5.0
    np.testing.assert_array_equal(retrainer(run, case.X_test, case.y_test)(Without([2])), before)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost", "sklearn_gb"])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_category_that_is_gone_from_a_retrained_pipeline(library, sparse):
    """The encoder then gives a column less than before."""
    town = RNG.choice(["Ulm", "Rom"], 200).astype(object)
    town[11] = "Oslo"
    table = pd.DataFrame({"x": X[:, 0], "town": town})
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=sparse)

    def fit(kept):
        steps = ColumnTransformer([("t", encoder, ["town"])], remainder="passthrough",
                                  sparse_threshold=float(sparse))  # fmt: skip
        model = make_pipeline(steps, models.make(library, "logistic", 4))
        return model.fit(table.iloc[kept], Y[kept])

    def losses(model):
        return -np.log(model.predict_proba(table[:20])[np.arange(20), Y[:20]])

    whole, kept = fit(np.arange(200)), np.delete(np.arange(200), 11)
    run = trace(whole, table, Y)
    found = retrainer(run, table[:20], Y[:20])(Without([11]))
    np.testing.assert_allclose(found, losses(fit(kept)) - losses(whole), rtol=1e-3, atol=1e-5)


def test_what_a_pipelines_steps_refuse_is_named():
    table = pd.DataFrame({"x": X[:, 0], "town": RNG.choice(["Ulm", "Rom"], 200)})
    steps = ColumnTransformer([("t", OneHotEncoder(), ["town"])], remainder="passthrough")
    model = make_pipeline(steps, models.make("lightgbm", "logistic", 3)).fit(table, Y)
    run = trace(model, table, Y)
    for wrong in (table.assign(town="Oslo"), table[["x"]], X):
        with pytest.raises(InputError, match="earlier steps"):
            run.queries(wrong, Y)


@pytest.mark.parametrize("library", models.LIBRARIES)
def test_nothing_left_to_train_on(library):
    case = models.fit(library, "squared", weighted=False)
    retrain = retrainer(trace(case.model, case.X, case.y), case.X_test, case.y_test)
    for gone in (np.arange(40), np.arange(39)):
        with pytest.raises(InputError, match="two rows or more"):
            retrain(Without(gone))


def test_catboosts_ranker_is_refused_by_name():
    import catboost

    groups = np.repeat(np.arange(20), 10)
    model = catboost.CatBoostRanker(iterations=2, verbose=False, allow_writing_files=False)
    run = trace(model.fit(catboost.Pool(X, Y, group_id=groups)), X, Y)
    with pytest.raises(UnsupportedModelError, match="YetiRank"):
        LeafInfluence().fit(run)


@pytest.mark.parametrize("k", [0, 1.5, "3", None, True])
def test_numbers_of_rows_that_are_none(k):
    case = models.fit("lightgbm", "squared", weighted=False)
    fitted = BoostIn().fit(trace(case.model, case.X, case.y))
    with pytest.raises(InputError, match="whole number"):
        fitted.explain_top(case.X_test, case.y_test, k=k)
    with pytest.raises(InputError, match="whole number"):
        fitted.explain(case.X_test, case.y_test).opponents(k)


def test_rows_of_unequal_length_and_params_that_are_a_list():
    case = models.fit("lightgbm", "squared", weighted=False)
    with pytest.raises(InputError, match="one length"):
        trace(case.model, [[1.0, 2.0], [3.0]], case.y[:2])
    with pytest.raises(InputError, match="names and values"):
        trace(case.model, case.X, case.y, None, [1])
