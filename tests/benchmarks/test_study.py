"""A tiny study of two methods on sixty bundled rows: it runs, resumes, and records what fails."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.study import cells, report
from benchmarks.study.__main__ import main
from benchmarks.study.cells import Study
from benchmarks.study.measures import MEASURES
from benchmarks.study.problems import load
from benchmarks.study.scales import PUBLISHED, SCALES
from tree_influence.methods import chosen_methods

TINY = replace(
    SCALES["small"], data=("breast_cancer",), libraries=("lightgbm",), n_train=60, n_queries=3,
    n_validation=4, n_scored=5, n_trees=4, n_leaves=4, single=(0.05,), many=(0.1,), subsets=4,
    loo=4,
)  # fmt: skip


def run(scale, methods, cache):
    study = Study(scale, chosen_methods(methods), cache)
    return [cell for pair in study.pairs() for cell in study.run(*pair)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def found(cache):
    return run(TINY, "boostin,random", cache)


def test_every_cell_has_numbers(found):
    assert len(found) == 2 * len(MEASURES)
    assert [cell for cell in found if "numbers" not in cell] == []
    assert json.loads(json.dumps(found)) == found


def test_a_second_run_does_nothing(found, cache, monkeypatch):
    monkeypatch.setattr(cells, "MEASURES", {})
    assert run(TINY, "boostin,random", cache) == found


def test_other_sizes_are_other_cells(found, cache, monkeypatch):
    monkeypatch.setattr(cells, "MEASURES", {})
    study = Study(replace(TINY, n_trees=5), chosen_methods("random"), cache, measures=["lds"])
    (cell,) = study.run("breast_cancer", "lightgbm")
    assert cell["error"].startswith("KeyError")


def test_what_fails_is_recorded_and_tried_again(tmp_path, monkeypatch):
    def breaks(answers):
        raise ZeroDivisionError("a bug")

    study = Study(TINY, chosen_methods("random"), tmp_path, measures=["noise", "cost"])
    monkeypatch.setattr(cells, "MEASURES", {**MEASURES, "noise": breaks})
    broken, sound = study.run("breast_cancer", "lightgbm")
    assert broken["error"] == "ZeroDivisionError: a bug"
    assert sound["numbers"]["seconds"] > 0
    monkeypatch.undo()
    mended, same = study.run("breast_cancer", "lightgbm")
    assert "numbers" in mended
    assert same == sound


def test_a_whole_data_set_that_fails_is_recorded(tmp_path):
    (cell,) = Study(TINY, chosen_methods("random"), tmp_path, measures=["lds"]).run(
        "nothing", "lightgbm"
    )
    assert "no data set 'nothing'" in cell["error"]
    assert cell["refused"] is False


@pytest.mark.parametrize(("name", "n_classes"), [("wine", 3), ("diabetes_sklearn", 0)])
def test_rows_are_cut_and_labels_corrupted(name, n_classes):
    problem = load(name, replace(TINY, n_train=None), seed=0)
    y = problem.train[1]
    parts: list[Any] = [problem.train, problem.queries, problem.validation, problem.scored]
    rows = np.concatenate([part[0] for part in parts])
    assert len(np.unique(rows, axis=0)) == len(rows), "a row is in two parts"
    assert [len(part[1]) for part in parts[1:]] == [3, min(4, round(0.1 * (len(y) // 4 - 3))), 5]
    wrong, changed = problem.corrupted(0.4, seed=0)
    np.testing.assert_array_equal(np.flatnonzero(wrong.train[1] != y), changed)
    assert len(changed) == round(0.4 * len(y))
    if n_classes:
        assert set(y) == set(range(n_classes))
    else:
        assert y.mean() == pytest.approx(0, abs=1e-12)
        assert y.std() == pytest.approx(1)


def curve(method, mean, base=1.0, library="one"):
    numbers = {"fractions": [0.0, 0.1, 0.2], "mean": mean, "base": base}
    return {
        "data": "d", "library": library, "method": method, "measure": "removal", "numbers": numbers
    }  # fmt: skip


def test_the_tables_by_hand():
    listed = [
        curve("a", [0.0, 1.0, 3.0]), curve("random", [0.0, 0.5, 0.5]),
        curve("a", [0.0, 2.0, None], library="two"),
        curve("random", [0.0, 0.5, 9.0], library="two"),
    ]  # fmt: skip
    frame = report.to_frame(listed)
    assert frame["value"].tolist() == [2.0, 0.5, 2.0, 0.5], "one share is trained by one alone"
    assert report.ranks(frame).set_index("method")["removal"].to_dict() == {"a": 1, "random": 2}
    ratio = report.against_chance(frame).set_index("method")["removal"]
    assert ratio["a"] == pytest.approx((3 / 1.5 * 3 / 1.5) ** 0.5)
    assert ratio["random"] == 1


def test_the_command_writes_tables_and_says_what_is_absent(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("INFLUENCE_DATA", raising=False)
    monkeypatch.setitem(SCALES, "small", replace(TINY, data=("breast_cancer", "adult", "twitter")))
    call = ["--jobs", "1", "--cache", str(tmp_path / "cache"), "--methods", "same_class"]
    assert main([*call, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "absent: adult (INFLUENCE_DATA is not set)" in printed
    assert "absent: twitter (not in datasets/registry.toml)" in printed
    stored = json.loads((tmp_path / "results" / "study_small.json").read_text())
    assert {cell["method"] for cell in stored["cells"]} == {"same_class", "random"}
    assert stored["scale"]["n_trees"] == 4
    assert "### Mean rank" in (tmp_path / "STUDY.md").read_text()
    assert main([*call, "--data", "twitter"]) == 2
    assert main([*call, "--libraries", "nonsense"]) == 2
    assert main([*call, "--seed", "-1"]) == main([*call, "--jobs", "0"]) == 2
    assert main(["--methods", "nonsense"]) == 2
    assert "Known: boostin" in capsys.readouterr().err


def test_without_a_folder_of_data_the_bundled_sets_stand_in(monkeypatch):
    from benchmarks.study.__main__ import _at_hand

    monkeypatch.delenv("INFLUENCE_DATA", raising=False)
    scale, absent = _at_hand(SCALES["paper"], True)
    assert scale.data == ("breast_cancer", "diabetes_sklearn", "wine", "digits")
    assert len(absent) == len(PUBLISHED) == 22
