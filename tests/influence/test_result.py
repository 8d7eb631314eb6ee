"""Results: rankings, indexes, storage."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from influence import Influence, TopInfluence, Without, storage
from influence.errors import InputError, StorageError
from influence.result import Provenance, strongest

PROVENANCE = Provenance("Method", {"a": 1}, "loss", "f00d", {"leaf_error_largest": 0.25})


def influence(values, train=None, queries=None):
    values = np.asarray(values, dtype=float)
    n_train, n_queries = values.shape
    return Influence(
        values,
        pd.RangeIndex(n_train) if train is None else _index(train),
        pd.RangeIndex(n_queries) if queries is None else _index(queries),
        PROVENANCE,
    )


def _index(labels):
    return labels if isinstance(labels, pd.Index) else pd.Index(labels)


def test_rankings_keep_the_callers_index():
    found = influence([[1.0, -2], [3, 0], [-1, 5]], ["a", "b", "c"], ["x", "y"])
    assert found.proponents(k=2).to_dict("list") == {
        "query": ["x", "x", "y"],
        "rank": [1, 2, 1],
        "train": ["b", "a", "c"],
        "influence": [3.0, 1.0, 5.0],
    }
    assert found.opponents(k=2)["train"].tolist() == ["c", "a"], "0 and helpful rows do not hurt"


def test_repr_tells_method_unit_and_error():
    assert "leaf error largest 0.25" in repr(influence([[1.0]]))
    assert "unit: loss" in repr(influence([[1.0]]))


def test_total_and_predict_sum_the_values():
    found = influence([[1.0, -2], [3, 0], [-1, 5]])
    np.testing.assert_allclose(found.total(), [-1, 3, 4])
    np.testing.assert_allclose(found.predict(Without([0, 2])), [0, 3])


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=n, max_size=n)
    ),
    st.integers(1, 15),
)
def test_strongest_is_a_stable_sort(column, k):
    values = np.array(column)[:, None]
    for sign in (1.0, -1.0):
        rows, found = strongest(values, k, sign)
        expected = np.argsort(-sign * values[:, 0], kind="stable")[:k]
        np.testing.assert_array_equal(rows[0], expected)
        np.testing.assert_array_equal(found[0], values[expected, 0])


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(3, 9, 2, name="row"),
        pd.Index([7, 1, 5]),
        pd.Index(["a", "ü", ""], name="id"),
        pd.Index([1.5, 2.0, np.inf]),
        pd.Index(["a", 1, None], dtype=object),
        pd.DatetimeIndex(["2020-01-01", "2021-02-03", "1999-09-09"], name="day"),
        pd.MultiIndex.from_tuples([("a", 1), ("b", 2), ("c", 3)], names=["x", "y"]),
    ],
    ids=lambda index: type(index).__name__ + str(index.dtype),
)
def test_any_index_survives_storage(index, tmp_path):
    influence(np.eye(3), index).save(tmp_path / "r.npz")
    loaded = Influence.load(tmp_path / "r.npz")
    pd.testing.assert_index_equal(loaded.train_index, index, exact="equiv", check_names=True)
    assert loaded.provenance == PROVENANCE


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "r.npz"
    influence(np.eye(3)).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StorageError, match="truncated"):
        Influence.load(path)
    np.save(tmp_path / "array.npy", np.eye(3))
    for name in ("nothing.npz", "array.npy"):
        with pytest.raises(StorageError, match="could not be read"):
            Influence.load(tmp_path / name)
    influence(np.eye(3)).save(path)
    with pytest.raises(StorageError, match="holds a Influence"):
        TopInfluence.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.npz"
    influence(np.eye(3)).save(path)
    before = path.read_bytes()
    odd = pd.Index([object(), object(), object()])
    with pytest.raises(StorageError, match="reset_index"):
        influence(np.eye(3), odd).save(path)
    with pytest.raises(StorageError):
        storage.write(tmp_path / "no" / "folder.npz", "Influence", {}, a=np.zeros(1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path], "a temporary file was left behind"


def test_threads_read_one_at_a_time(tmp_path, monkeypatch):
    path, inside, most = tmp_path / "a.npz", [], []
    storage.write(path, "Influence", {}, a=np.arange(3))
    load = np.load

    @contextmanager
    def watched(*args, **options):
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.02)
        with load(*args, **options) as file:
            yield file
        inside.pop()

    monkeypatch.setattr(np, "load", watched)
    reads = [threading.Thread(target=storage.read, args=(path, "Influence")) for _ in range(4)]
    for read in reads:
        read.start()
    for read in reads:
        read.join()
    assert most == [1, 1, 1, 1]


def test_top_refuses_more_than_it_holds(tmp_path):
    rows, values = strongest(np.arange(6.0)[:, None], 2, 1.0)
    low = strongest(np.arange(6.0)[:, None], 2, -1.0)
    labels = pd.Index(list("abcdef"))
    top = TopInfluence(rows, values, low[0], low[1], labels, pd.RangeIndex(1), PROVENANCE)
    assert top.proponents()["train"].tolist() == ["f", "e"]
    with pytest.raises(InputError, match="explain_top with k=3"):
        top.proponents(3)
    top.save(tmp_path / "top.npz")
    pd.testing.assert_frame_equal(
        TopInfluence.load(tmp_path / "top.npz").proponents(), top.proponents()
    )
