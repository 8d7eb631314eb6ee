"""Bins of columns of numbers, of categories and with missing values."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tree_influence import binning
from tree_influence.binning import Bins


def bins_of(X, categorical=(), unordered=(), weight=None):
    n_features = X.shape[1]
    adapter: Any = SimpleNamespace(
        ensemble=SimpleNamespace(n_features=n_features), categorical=categorical,
        unordered=unordered, features=lambda rows: rows,
    )  # fmt: skip
    weight = np.ones(len(X)) if weight is None else weight
    run: Any = SimpleNamespace(adapter=adapter, prefix=None, X=X, n_train=len(X), weight=weight)
    return Bins.of_run(run)


def test_few_values_get_a_bin_each():
    X = np.array([[3.0], [1.0], [2.0], [1.0]])
    assert bins_of(X).of(np.array([[1.0], [1.4], [1.6], [9.0], [-9.0]])).tolist() == [
        [0, 0, 1, 2, 0]
    ]


def test_many_values_are_cut_at_quantiles():
    x = np.random.default_rng(0).normal(size=(5000, 1))
    known = bins_of(x)
    counts = np.bincount(known.of(x)[0])
    assert known.counts.tolist() == [binning.N_BINS] == [len(counts)]
    assert np.abs(counts - 5000 / binning.N_BINS).max() <= 1
    order = np.argsort(x[:, 0])
    assert (np.diff(known.of(x)[0][order].astype(int)) >= 0).all()


def test_missing_values_have_the_last_bin():
    X = np.array([[1.0, np.nan], [np.nan, np.nan], [2.0, np.nan]])
    known = bins_of(X)
    assert known.counts.tolist() == [2, 1]
    assert known.of(X).tolist() == [[0, 2, 1], [1, 1, 1]]


def test_categories_have_bins_by_frequency_and_unknown_ones_count_as_missing():
    X = pd.DataFrame({"town": ["b", "a", "b", None, "c"], "size": [1, 2, 3, 4, 5]})
    known = bins_of(X, categorical=(0,))
    asked = pd.DataFrame({"town": ["c", "b", "x", None, "a"], "size": [1, 2, 3, 4, 5]})
    assert known.of(asked)[0].tolist() == [2, 0, 3, 3, 1]
    assert known.categorical.tolist() == [True, False]


def test_rare_categories_share_the_last_bin():
    names = np.repeat(np.arange(300.0), np.where(np.arange(300) < 254, 2, 1))[:, None]
    known = bins_of(names, categorical=(0,))
    found = known.of(names)[0]
    assert known.counts.tolist() == [254]
    assert (found[names[:, 0] >= 254] == 254).all()
    assert len(np.unique(found)) == 255


def test_texts_are_left_out():
    X = pd.DataFrame({"text": ["one", "two"], "size": [1.0, 2.0]})
    assert bins_of(X, unordered=(0,)).of(X).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("n", [10, 1000])
def test_a_sample_finds_about_the_same_edges(monkeypatch, n):
    x = np.random.default_rng(0).normal(size=(n, 1))
    exact = bins_of(x).of(x)[0].astype(float)
    monkeypatch.setattr(binning, "SAMPLE", n // 2)
    sampled = bins_of(x).of(x)[0].astype(float)
    assert np.corrcoef(exact, sampled)[0, 1] > 0.9


def test_rows_without_weight_make_no_bins():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 1))
    weight = rng.integers(0, 2, 900).astype(float)
    x[weight == 0] += 3.0
    known, alone = bins_of(x, weight=weight), bins_of(x[weight > 0])
    np.testing.assert_array_equal(known.columns[0], alone.columns[0])
    names = np.where(weight == 0, "none", rng.choice(list("abc"), 900)).astype(object)[:, None]
    assert bins_of(names, categorical=(0,), weight=weight).counts.tolist() == [3]
