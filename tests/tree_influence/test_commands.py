"""`influence explain` and `influence quickstart`, as a person calls them."""

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from influence import TopInfluence, Without
from influence.cli.main import main
from influence.errors import StorageError
from tests.influence.report.pages import content
from tests.tree_influence import models
from tree_influence import LeafInfluence, retrainer, trace

CITIES = np.array(["Bern", "Oslo", "Riga"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model with numbers, categories and missing values, and its tables."""
    import lightgbm

    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=120), "age": rng.integers(0, 50, 120)})
    table["city"] = CITIES[rng.integers(0, 3, 120)]
    table.loc[rng.random(120) < 0.1, "size"] = np.nan
    table["answer"] = np.where(table["age"] + 20 * (table["city"] == "Oslo") > 30, "yes", "no")
    table["name"] = [f"row{i}" for i in range(120)]
    table["weight"] = rng.uniform(0.5, 1.5, 120)
    train, new = table[:100], table[100:105]
    X = train[["size", "age", "city"]].astype({"city": "category"})
    model = lightgbm.LGBMClassifier(n_estimators=10, min_child_samples=5, verbose=-1)
    model.fit(X, train["answer"], sample_weight=train["weight"])
    model.booster_.save_model(folder / "model.txt")
    train.to_csv(folder / "train.csv", index=False)
    train.to_parquet(folder / "train.parquet")
    new.to_csv(folder / "new.csv", index=False)
    new.drop(columns="answer").to_csv(folder / "unlabelled.csv", index=False)
    return folder


def explain(folder, *more, train="train.csv", queries="new.csv"):
    return main(
        ["explain", str(folder / "model.txt"), "--train", str(folder / train), "--target",
         "answer", "--queries", str(folder / queries), "--weight", "weight", "--id", "name",
         "--quiet", *more]
    )  # fmt: skip


def test_explain_prints_and_writes_the_ranking(folder, tmp_path, capsys):
    assert explain(folder, "--top", "4", "--out", str(tmp_path / "new" / "out")) == 0
    printed = capsys.readouterr().out
    assert "query row100: prediction" in printed
    assert "positive = proponent" in printed
    out = tmp_path / "new" / "out"
    frame = pd.read_csv(out / "influence.csv")
    assert list(frame.columns) == ["query", "side", "rank", "train", "influence"]
    assert frame["query"].unique().tolist() == [f"row{i}" for i in range(100, 105)]
    pd.testing.assert_frame_equal(frame, pd.read_parquet(out / "influence.parquet"))
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["method"] == "LeafInfluence"
    assert provenance["run"]["leaf_error_largest"] < 1e-5
    queries = pd.read_csv(out / "queries.csv")
    assert {"query", "prediction", "truth", "loss"} <= set(queries.columns)
    assert TopInfluence.load(out / "influence.npz").proponents().shape[0] > 0


def test_explain_is_the_api(folder, tmp_path):
    assert explain(folder, "--out", str(tmp_path)) == 0
    train, new = (pd.read_csv(folder / name) for name in ("train.csv", "new.csv"))
    columns = ["size", "age", "city"]
    run = trace(folder / "model.txt", train[columns], train["answer"].to_numpy(), train["weight"])
    top = LeafInfluence().fit(run).explain_top(new[columns], new["answer"].to_numpy(), k=10)
    frame = pd.read_csv(tmp_path / "influence.csv")
    expected = pd.concat([top.proponents(), top.opponents()])
    np.testing.assert_allclose(frame["influence"], expected["influence"], rtol=1e-12)
    assert frame["train"].tolist() == [f"row{i}" for i in expected["train"]]


def test_a_page_is_written_beside_the_result(folder, tmp_path, capsys):
    page, out = tmp_path / "page.html", tmp_path / "out"
    assert explain(folder, "--report", str(page), "--refits", "1", "--out", str(out)) == 0
    written = page.read_text(encoding="utf-8")
    assert "row100" in written and "self-influence" in written
    assert capsys.readouterr().out.rstrip().endswith(str(page))
    assert explain(folder, "--report", str(page), "--queries", "no.csv") == 2
    assert page.read_text(encoding="utf-8") == written
    assert explain(folder, "--report", str(tmp_path / "none" / "page.html")) == 2
    assert "can be written" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_costs_no_result(folder, tmp_path, monkeypatch, capsys):
    def full(path, page):
        raise StorageError("the disk is full.")

    monkeypatch.setattr("influence.report.write", full)
    more = ["--report", str(tmp_path / "page.html"), "--refits", "0", "--out", str(tmp_path)]
    assert explain(folder, *more) == 2
    captured = capsys.readouterr()
    assert "query row100: prediction" in captured.out and "disk is full" in captured.err
    assert (tmp_path / "influence.csv").is_file()


def test_a_page_without_truth_shows_none(folder, tmp_path):
    page = tmp_path / "page.html"
    assert explain(folder, "--report", str(page), "--refits", "0", queries="unlabelled.csv") == 0
    held = content(page.read_text(encoding="utf-8"))
    assert held["queries"]["facts"]["names"] == ["prediction", "loss"]
    (told,) = [value for name, value in held["about"] if name == "truth"]
    assert "loss and sign refer to the model's own predictions" in told


def test_parquet_and_another_method(folder, capsys):
    assert explain(folder, "--method", "boostin", train="train.parquet") == 0
    assert "BoostIn(shrunken_leaves=False, weighted=0)" in capsys.readouterr().out


def test_a_method_that_trains_again(folder, capsys):
    assert explain(folder, "--method", "averaged_leaf") == 0
    assert "n_models=20" in capsys.readouterr().out


def test_queries_without_truth_explain_the_prediction(folder, tmp_path, capsys):
    assert explain(folder, "--out", str(tmp_path), queries="unlabelled.csv") == 0
    printed = capsys.readouterr().out
    told = "the queries have no truth: loss and sign refer to the model's own predictions"
    assert told in printed.splitlines() and ", truth" not in printed
    assert json.loads((tmp_path / "provenance.json").read_text())["run"]["truth"] == told
    assert explain(folder, "--out", str(tmp_path)) == 0
    assert "own predictions" not in capsys.readouterr().out
    assert "truth" not in json.loads((tmp_path / "provenance.json").read_text())["run"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--target", "nothing"], "no column 'nothing'"),
        (["--train", "missing.csv"], "cannot be read"),
        (["--param", "reg_lambda"], "NAME=VALUE"),
        (["--top", "0", "--train", "missing.csv"], "--top must be a whole number from 1"),
        (["--refits", "-1", "--train", "missing.csv"], "--refits must be a whole number from 0"),
        (["--weight", "age"], "leaf"),
        (["--param", "lambda_l2=50"], "leaf"),
    ],
)
def test_mistakes_are_one_line_on_stderr(folder, change, says, capsys):
    assert explain(folder, *change) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert says in captured.err
    assert "Traceback" not in captured.err


def test_categories_that_look_like_numbers_or_missing(tmp_path, capsys):
    import lightgbm

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"zip": rng.choice(["01", "02", "None"], 90), "x": rng.normal(size=90)})
    table["y"] = (table["x"] + (table["zip"] == "None") > 0.5).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=5, min_child_samples=5, verbose=-1)
    X: Any = table[["zip", "x"]].astype({"zip": "category"})
    model.fit(X, table["y"]).booster_.save_model(tmp_path / "model.txt")
    table.to_csv(tmp_path / "all.csv", index=False)
    call = ["explain", str(tmp_path / "model.txt"), "--train", str(tmp_path / "all.csv")]
    call += ["--target", "y", "--queries", str(tmp_path / "all.csv"), "--top", "1", "--quiet"]
    assert main(call) == 2
    assert main([*call, "--text", "zip"]) == 0
    (tmp_path / "empty.csv").write_text("zip,x,y\n")
    assert main([*call, "--queries", str(tmp_path / "empty.csv")]) == 2
    assert "it has none" in capsys.readouterr().err
    assert main([*call, "--out", str(tmp_path / "all.csv")]) == 2
    assert "Cannot write results" in capsys.readouterr().err


def test_rows_are_named_once(folder, capsys):
    assert explain(folder, "--id", "city") == 2
    assert "names each row once" in capsys.readouterr().err


def test_a_missing_column_is_named(folder, tmp_path, capsys):
    pd.read_csv(folder / "new.csv").drop(columns="age").to_csv(tmp_path / "new.csv", index=False)
    assert explain(folder, "--queries", str(tmp_path / "new.csv")) == 2
    assert "['age']" in capsys.readouterr().err


def spaced(folder, names=("sepal length (cm)", "width")):
    """A model of columns with spaces in their names, as LightGBM saves it, and its table."""
    import lightgbm

    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, len(names))), columns=list(names))
    table["y"] = (table[names[0]] > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=3, min_child_samples=5, verbose=-1)
    model.fit(table[list(names)], table["y"]).booster_.save_model(folder / "spaced.txt")
    table.to_csv(folder / "spaced.csv", index=False)
    call = ["explain", str(folder / "spaced.txt"), "--train", str(folder / "spaced.csv")]
    return [*call, "--target", "y", "--queries", str(folder / "spaced.csv"), "--quiet"], table


def test_columns_whose_names_have_spaces(tmp_path, capsys):
    call, table = spaced(tmp_path)
    assert main([*call, "--json"]) == 0, "LightGBM saves such names with underscores"
    ranked = json.loads(capsys.readouterr().out)["results"]
    run = trace(tmp_path / "spaced.txt", table.drop(columns="y"), table["y"])
    top = LeafInfluence().fit(run).explain_top(table.drop(columns="y"), table["y"], k=10)
    expected = pd.concat([top.proponents(), top.opponents()])["influence"]
    np.testing.assert_allclose([row["influence"] for row in ranked], expected, rtol=1e-9)


def test_columns_whose_names_have_spaces_are_trained_on_again(tmp_path):
    _, table = spaced(tmp_path)
    effects = []
    for named in (table, table.rename(columns=lambda name: name.replace(" ", "_"))):
        X, y = named.drop(columns="y"), named["y"]
        run = trace(tmp_path / "spaced.txt", X, y)
        effects.append(retrainer(run, X, y)(Without(range(20))))
    np.testing.assert_array_equal(*effects)
    assert np.abs(effects[0]).max() > 0


def test_a_name_that_two_columns_fit_is_refused(tmp_path, capsys):
    call, table = spaced(tmp_path, ("a b c", "d"))
    table = table.rename(columns={"a b c": "a_b c"}).assign(**{"a b_c": 0.0})
    table.to_csv(tmp_path / "spaced.csv", index=False)
    assert main(call) == 2
    told = capsys.readouterr().err
    assert "'a_b_c' by ['a_b c', 'a b_c']" in told and "lacks" not in told
    assert re.search(r"lightgbm \S+ saves a space in a name as '_'", told)


def test_the_exact_column_does_not_hide_another(tmp_path, capsys):
    call, table = spaced(tmp_path, ("a b", "d"))
    table.assign(a_b=-table["a b"]).to_csv(tmp_path / "two.csv", index=False)
    assert main([*call, "--queries", str(tmp_path / "two.csv")]) == 2
    assert "'a_b' by ['a b', 'a_b']" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--target", "--id"])
def test_a_target_or_id_that_looks_like_a_feature_is_none(option, tmp_path, capsys):
    call, table = spaced(tmp_path, ("a b", "d"))
    y = table["y"]
    assert main([*call, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["results"]
    table["a_b"] = y if option == "--target" else np.arange(60)
    table.to_csv(tmp_path / "spaced.csv", index=False)
    if option == "--target":
        table.drop(columns="y").to_csv(tmp_path / "spaced.csv", index=False)
    assert main([*call, "--json", option, "a_b"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == expected


def test_a_missing_column_is_not_blamed_on_spaces(tmp_path, capsys):
    call, table = spaced(tmp_path, ("a b", "d"))
    for gone, hint in (("d", False), ("a b", True)):
        table.drop(columns=gone).to_csv(tmp_path / "spaced.csv", index=False)
        assert main(call) == 2
        told = capsys.readouterr().err
        assert (
            f"lacks columns that the model was trained with: ['{gone.replace(' ', '_')}']" in told
        )
        assert ("saves a space" in told) == hint


def test_a_regression_needs_the_truth(tmp_path, capsys):
    X, y, X_test, _ = models.make_data("squared", n_train=60)
    model = models.make("lightgbm", "squared", 5).fit(X, y)
    model.booster_.save_model(tmp_path / "model.txt")
    pd.DataFrame(X).assign(y=y).to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame(X_test).to_csv(tmp_path / "new.csv", index=False)
    call = ["explain", str(tmp_path / "model.txt"), "--train", str(tmp_path / "train.csv")]
    call += ["--target", "y", "--queries", str(tmp_path / "new.csv")]
    assert main(call) == 2
    assert "needs the truth" in capsys.readouterr().err


def test_quickstart_finds_the_flipped_labels(capsys):
    assert main(["quickstart"]) == 0
    printed = capsys.readouterr().out
    assert "(flipped)" in printed
    assert "positive = proponent" in printed
    line = next(line for line in printed.splitlines() if line.split()[:1] == ["40"])
    assert int(line.split()[1]) >= 25, "of 32 flipped rows, most must be among the first tenth"
    assert main(["quickstart", "--seed", "-1"]) == 2
    assert "seed must be a whole number" in capsys.readouterr().err


def test_a_ranker_is_explained_by_similarity(tmp_path, capsys):
    import lightgbm

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=60), "age": rng.normal(size=60)})
    table["clicks"] = (table["size"] > 0).astype(int)
    table.to_csv(tmp_path / "train.csv", index=False)
    model = lightgbm.LGBMRanker(n_estimators=3, min_child_samples=5, verbose=-1)
    model.fit(table[["size", "age"]], table["clicks"], group=[30, 30])
    model.booster_.save_model(tmp_path / "model.txt")
    arguments = ["explain", str(tmp_path / "model.txt"), "--target", "clicks", "--quiet"]
    arguments += ["--train", str(tmp_path / "train.csv"), "--queries", str(tmp_path / "train.csv")]
    assert main([*arguments, "--method", "tree_sim"]) == 0
    assert "unit: similarity" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "TreeSim still answers" in capsys.readouterr().err
