"""`influence compare`, as a person calls it, on small tables."""

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

import tree_influence
from influence import agreement, random_subsets
from influence.cli.main import main
from tree_influence import LeafInfluence, retrainer, trace
from tree_influence.compare_commands import compare
from tree_influence.methods import METHODS, chosen_methods, known_methods

SMALL = ["--n-queries", "4", "--loo", "3", "--subsets", "5", "--fractions", "0.05"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved LightGBM model of the breast cancer data, and its tables."""
    import lightgbm

    folder = tmp_path_factory.mktemp("compare")
    bunch: Any = load_breast_cancer(as_frame=True)
    table = bunch.frame.iloc[:, [0, 1, 2, 3, -1]].sample(90, random_state=0)
    table.columns = [name.replace(" ", "_") for name in table.columns]
    train, new = table[:80], table[80:]
    model = lightgbm.LGBMClassifier(n_estimators=8, min_child_samples=5, n_jobs=1, verbose=-1)
    model.fit(train.drop(columns="target"), train["target"])
    model.booster_.save_model(folder / "model.txt")
    train.to_csv(folder / "train.csv", index=False)
    new.to_csv(folder / "new.csv", index=False)
    new.drop(columns="target").to_csv(folder / "unlabelled.csv", index=False)
    return folder


def call(folder, *more, model="model.txt", queries="new.csv"):
    tables = ["--train", str(folder / "train.csv"), "--queries", str(folder / queries)]
    arguments = ["compare", str(folder / model), "--target", "target", *tables, *SMALL, *more]
    return main(arguments, {"compare": compare})


def test_the_table_the_files_and_the_plan(folder, tmp_path, capsys):
    methods = ["--methods", "boostin,leaf_influence"]
    assert call(folder, *methods, "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("plan: at most 20 trainings (3 loo, 5 lds, 12 removal) of")
    assert "random" in printed
    frame = pd.read_csv(tmp_path / "comparison.csv")
    assert frame["method"].tolist() == ["boostin", "leaf_influence", "random"]
    assert frame[["lds", "loo", "removal"]].notna().all(axis=None)
    assert (frame["seconds"][:2] > 0).all()
    told = json.loads((tmp_path / "comparison.json").read_text())
    assert told["configuration"]["subsets"] == 5
    assert not {"command", "quiet", "json", "debug"} & set(told["configuration"])
    assert told["methods"]["boostin"]["method"] == "BoostIn"
    assert told["results"][0]["lds"] == pytest.approx(frame["lds"][0])
    assert len(pd.read_csv(tmp_path / "removal.csv")) == 3


def test_the_page_holds_the_table(folder, tmp_path, capsys):
    options = ["--methods", "boostin", "--loo", "0", "--quiet", "--out", str(tmp_path)]
    assert call(folder, *options, "--report", str(tmp_path / "none" / "page.html")) == 2
    assert "' cannot" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "said before any work"
    path = tmp_path / "page.html"
    assert call(folder, *options, "--report", str(path)) == 0
    assert capsys.readouterr().out.strip().endswith(str(path))
    page = path.read_text(encoding="utf-8")
    lds = pd.read_csv(tmp_path / "comparison.csv")["lds"][0]
    (figure,) = re.findall(r'"title":"LDS".*?"rows":(\[\[.*?\]\])', page)
    assert json.loads(figure)[0][:2] == ["boostin", pytest.approx(lds)]
    assert '["method boostin","BoostIn(shrunken_leaves=False, weighted=0)"]' in page


def test_the_lds_is_that_of_the_functions(folder, tmp_path):
    options = ["--methods", "leaf_influence", "--n-queries", "99", "--fractions", "", "--loo", "0"]
    assert call(folder, *options, "--quiet", "--out", str(tmp_path)) == 0
    train, new = (pd.read_csv(folder / name) for name in ("train.csv", "new.csv"))
    run = trace(folder / "model.txt", train.drop(columns="target"), train["target"])
    asked = new.drop(columns="target"), new["target"]
    predict = LeafInfluence().fit(run).explain(*asked).predict
    expected = agreement(predict, retrainer(run, *asked), random_subsets(80, 0.5, 5, 0))
    frame = pd.read_csv(tmp_path / "comparison.csv")
    assert frame["lds"][0] == pytest.approx(expected.mean)
    assert frame["loo"].isna().all()


def test_a_second_call_trains_nothing(folder, tmp_path, capsys):
    options = ["--methods", "boostin", "--cache", str(tmp_path), "--quiet"]
    assert call(folder, *options) == 0
    first, files = capsys.readouterr().out, sorted(tmp_path.iterdir())
    assert call(folder, *options) == 0
    again = capsys.readouterr().out
    for line, same in zip(first.splitlines(), again.splitlines(), strict=True):
        assert line.split()[:7] == same.split()[:7]
    assert sorted(tmp_path.iterdir()) == files


def test_queries_without_truth_and_a_method_that_refuses(folder, tmp_path, capsys):
    import lightgbm

    train = pd.read_csv(folder / "train.csv")
    X, y = train.drop(columns="target"), train["target"]
    dart = {"boosting": "dart", "drop_rate": 0.9, "num_threads": 1, "verbose": -1}
    model = lightgbm.train({"objective": "binary", **dart}, lightgbm.Dataset(X, y), 6)
    model.save_model(folder / "dart.txt")
    options = ["--methods", "boostin,tree_sim", "--quiet"]
    assert call(folder, *options, model="dart.txt", queries="unlabelled.csv") == 0
    printed = capsys.readouterr().out
    assert "loss and sign refer to the model's own predictions" in printed
    assert "boostin refused: UnsupportedModelError" in printed
    (line,) = [line for line in printed.splitlines() if line.split()[0] == "tree_sim"]
    assert "refused" not in line


def test_a_model_saved_with_skops(folder, capsys):
    skops = pytest.importorskip("skops.io")
    from sklearn.ensemble import HistGradientBoostingClassifier

    train = pd.read_csv(folder / "train.csv")
    model = HistGradientBoostingClassifier(max_iter=5, early_stopping=False)
    model.fit(train.drop(columns="target"), train["target"])
    skops.dump(model, folder / "model.skops")
    assert call(folder, "--methods", "boostin", "--quiet", model="model.skops") == 0
    assert "boostin" in capsys.readouterr().out


def test_a_saved_xgboost_model_is_given_its_recipe(folder, capsys):
    xgboost = pytest.importorskip("xgboost")
    train = pd.read_csv(folder / "train.csv")
    settings = {"n_estimators": 5, "max_depth": 3, "reg_lambda": 2.0, "subsample": 0.8}
    model = xgboost.XGBClassifier(**settings, n_jobs=1, random_state=4)
    model.fit(train.drop(columns="target"), train["target"])
    model.save_model(folder / "model.json")
    params = ["--param", "reg_lambda=2", "--param", "learning_rate=0.3", "--param", "subsample=0.8"]
    options = ["--methods", "boostin", *params, "--quiet"]
    assert call(folder, *options, model="model.json") == 2
    assert "--recipe" in capsys.readouterr().err
    recipe = ["--recipe", "max_depth=3", "--recipe", "reg_lambda=2", "--recipe", "subsample=0.8"]
    assert call(folder, *options, *recipe, model="model.json") == 2
    assert "raw predictions differ" in capsys.readouterr().err
    recipe += ["--recipe", "random_state=4", "--recipe", "n_estimators=5"]
    assert call(folder, *options, *recipe, model="model.json") == 0
    # What --param says need not be said again, and a recipe may explain inexact leaves.
    assert call(folder, *options, "--recipe", "max_depth=3", *recipe[-4:], model="model.json") == 0
    options = ["--methods", "boostin", *params[:4], "--quiet"]
    assert call(folder, *options, *recipe, model="model.json") == 0
    assert "boostin" in capsys.readouterr().out
    assert call(folder, "--quiet", *recipe) == 2
    assert "holds its recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--methods", "bostin"], "did you mean 'boostin'? Known: boostin, leaf_influence"),
        (["--methods", ","], "name of a method"),
        (["--fractions", "many"], "takes shares"),
        (["--fractions", "7"], "--fractions takes shares from 0 to 1"),
        (["--n-queries", "0"], "--n-queries must be a whole number from 1"),
        (["--loo", "2"], "--loo must be 0, or 3 or more"),
        (["--loo", "-3"], "--loo must be 0, or 3 or more"),
        (["--subsets", "1"], "--subsets must be 0, or 3 or more"),
        (["--jobs", "0"], "--jobs must not be 0"),
        (["--seed", "-1"], "from 0 on"),
        (["--loo", "0", "--subsets", "0", "--fractions", ""], "something to measure"),
        (["--loo", "0", "--subsets", "0", "--fractions", "0"], "something to measure"),
    ],
)
def test_mistakes_are_one_line_on_stderr(folder, change, says, capsys):
    assert call(folder, *change, model="missing.txt") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert says in captured.err
    assert "plan" not in captured.out, "mistakes are found before anything is trained"


def test_one_query_has_no_interval_of_its_removal(folder, capsys):
    options = ["--methods", "boostin", "--n-queries", "1", "--loo", "0", "--subsets", "0"]
    assert call(folder, *options, "--quiet") == 0
    assert "nan" not in capsys.readouterr().out


def test_every_known_method_can_be_made():
    known = known_methods()
    assert set(known) <= set(METHODS)
    for name, method in known.items():
        assert type(method.estimator(seed=3)).__name__ == method.classes[0], name
    estimators = {name for name in tree_influence.__all__ if name[0].isupper()}
    of_labels_only = {"AXIL"}  # it ranks no rows
    named = {name for method in METHODS.values() for name in method.classes}
    assert named == estimators - of_labels_only - {"TreeEnsemble", "TreeRun"}
    chosen = chosen_methods(" boostin, loo")
    assert list(chosen) == ["boostin", "loo"]
    assert [method.n_trainings(80) for method in chosen.values()] == [0, 81]
    assert np.all([not method.trains for method in chosen_methods("random").values()])


def test_changes_that_cannot_be_trained_are_counted(tmp_path, capsys):
    skops = pytest.importorskip("skops.io")
    from sklearn.ensemble import GradientBoostingClassifier

    rng = np.random.default_rng(0)
    train = pd.DataFrame({"x": rng.normal(size=40)}).assign(target=0)
    train.loc[[3, 7], "target"] = 1  # a half of the rows often holds neither
    model = GradientBoostingClassifier(n_estimators=3).fit(train[["x"]], train["target"])
    skops.dump(model, tmp_path / "model.skops")
    train.to_csv(tmp_path / "train.csv", index=False)
    train[:10].to_csv(tmp_path / "new.csv", index=False)
    options = ["--subsets", "12", "--loo", "0", "--methods", "boostin", "--quiet"]
    assert call(tmp_path, *options, model="model.skops") == 0
    n_lost = sum({3, 7} <= set(one.rows.tolist()) for one in random_subsets(40, 0.5, 12, 0))
    assert f"LDS: {n_lost} more changes could not be trained" in capsys.readouterr().out
    options = ["--subsets", "0", "--loo", "0", "--fractions", "0.1,1", "--methods", "boostin"]
    assert call(tmp_path, *options, "--quiet", model="model.skops") == 0
    assert "removal: 4 of 4 queries are left out of boostin's" in capsys.readouterr().out
