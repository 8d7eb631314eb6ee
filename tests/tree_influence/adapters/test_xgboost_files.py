"""XGBoost's files: of this version, of others, and damaged ones."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost

from influence.errors import StorageError, UnsupportedModelError
from tests.tree_influence.adapters.xgboost_oracle import (
    OBJECTIVES,
    VERSION,
    booster_of,
    check_parity,
    fit,
    leaf_error,
    make_model,
)
from tree_influence import LeafInfluence, adapters, trace
from tree_influence.adapters import parse

GOLDEN = Path(__file__).parents[2] / "golden" / "xgboost"
WRITERS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name[0].isdigit())
TARGETS = {
    "binary": "binary", "softprob": "classes", "poisson": "count", "vector": "two",
    "forest": "real", "dart": "real", "margin": "real",
}  # fmt: skip


@pytest.mark.parametrize("name", ["model.json", "model.ubj", "model.bin"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_files(objective, name, tmp_path):
    model, table, *_ = fit(objective)
    path = tmp_path / name
    path.write_bytes(bytes(booster_of(model).save_raw("json" if "json" in name else "ubj")))
    loaded = adapters.load(path)
    adapter = parse(loaded)
    check_parity(loaded, table)
    assert adapter.feature_names == list(table.columns)
    assert (adapter.classes is None) == (objective == "reg:squarederror")
    np.testing.assert_array_equal(adapter.library_raw(adapter.features(table)).ravel(),
        model.predict(table, output_margin=True).ravel())  # fmt: skip
    estimator = make_model(objective)
    estimator.load_model(bytearray(path.read_bytes()))
    check_parity(estimator, table)


@pytest.mark.parametrize("kind", ["json", "ubj"])
def test_damaged_files_are_named(kind, tmp_path):
    content = bytes(booster_of(fit("reg:squarederror")[0]).save_raw(kind))
    path = tmp_path / "model"
    for n_bytes in (100, len(content) // 2, len(content) - 200, len(content) - 1):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(StorageError, match="cannot be read"):
            adapters.load(path)
    with pytest.raises(StorageError, match="cannot be read"):
        adapters.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("left_children", 10**6, "outside"),
        ("left_children", 0, "share a child"),
        ("right_children", -5, "outside"),
        ("split_indices", 99, "does not have"),
    ],
)
def test_trees_that_would_read_foreign_memory_are_refused(field, value, says, tmp_path):
    model = json.loads(bytes(booster_of(fit("reg:squarederror")[0]).save_raw("json")))
    model["learner"]["gradient_booster"]["model"]["trees"][0][field][0] = value
    (tmp_path / "m.json").write_text(json.dumps(model, separators=(",", ":")))
    with pytest.raises(StorageError, match=says):
        parse(adapters.load(tmp_path / "m.json"))


def golden(version, name):
    """A model another version wrote, its rows, target and weights, and what that version said."""
    if tuple(int(part) for part in version.split(".")[:2]) > VERSION:
        pytest.skip(f"XGBoost {xgboost.__version__} is older than the file")
    [path] = (GOLDEN / version).glob(f"{name}.*")
    rows, told = np.load(GOLDEN / "rows.npz"), np.load(GOLDEN / version / "told.npz")
    table = pd.DataFrame(rows["X"], columns=["a", "b"])
    if name == "binary":
        table["city"] = pd.Categorical.from_codes(rows["city"], ["Bern", "Oslo", "Riga"])
    raw = told[f"{name} raw"].reshape(len(table), -1)
    leaf = told[f"{name} leaf"].reshape(len(table), -1)
    return adapters.load(path), table, rows[TARGETS[name]], rows["weight"], (rows, raw, leaf)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("version", WRITERS)
def test_files_of_other_versions(version, name):
    if name == "vector" and version < "3.2" and VERSION >= (3, 2):
        with pytest.raises(StorageError, match=r"vector leaves.*ends the process"):
            golden(version, name)
        return
    model, table, y, weight, (rows, raw, leaf) = golden(version, name)
    adapter = parse(model)
    leaves = adapter.leaves(adapter.features(table))
    order = adapter._content.order
    np.testing.assert_array_equal(adapter.ensemble.labels(leaves), leaf[:, order])
    offset = rows["margin"][:, None] - adapter.ensemble.bias if name == "margin" else 0
    np.testing.assert_allclose(adapter.ensemble.raw(leaves) + offset, raw, rtol=1e-5, atol=1e-5)
    if name == "dart":
        with pytest.raises(UnsupportedModelError, match="DART"):
            LeafInfluence().fit(trace(model, table, y, weight))
        return
    given = None if name != "margin" else offset
    settings = {"huber_slope": 0.5}
    recipe, error = leaf_error(model, table, y, weight, offset=given, settings=settings)
    assert error < 2e-5
    np.testing.assert_allclose(recipe.l2, 2.0, rtol=1e-4)
    np.testing.assert_allclose(recipe.learning_rate, 0.4 / adapter._content.n_parallel, rtol=1e-4)


@pytest.mark.parametrize("version", WRITERS)
def test_categories_in_files_of_other_versions(version):
    """Before 3.1 a model has codes only; a column of pandas' categories stands for its own."""
    model, table, *_ = golden(version, "binary")
    text = table.assign(city=table["city"].astype(object))
    adapter = parse(model)
    if version < "3.1":
        coded = table.assign(city=table["city"].cat.codes)
        np.testing.assert_array_equal(adapter.features(coded), adapter.features(table))
    else:
        np.testing.assert_array_equal(adapter.features(text), adapter.features(table))
