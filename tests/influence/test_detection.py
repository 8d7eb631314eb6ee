"""Noise detection against scikit-learn's own metrics."""

import numpy as np
import pytest
from sklearn import metrics

from influence import label_noise_curve
from influence.detection import noise_detection
from influence.errors import InputError


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_scikit_learn(seed, ties):
    rng = np.random.default_rng(seed)
    wrong = rng.random(60) < 0.3
    suspicion = rng.normal(size=60) + wrong
    suspicion = np.round(suspicion) if ties else suspicion
    found = noise_detection(suspicion, np.flatnonzero(wrong))
    assert found.roc_auc == pytest.approx(metrics.roc_auc_score(wrong, suspicion))
    expected = metrics.average_precision_score(wrong, suspicion)
    assert found.average_precision == pytest.approx(expected)
    if not ties:
        for k in (1, 7, 60):
            chosen = np.argsort(-suspicion)[:k]
            flagged = np.isin(np.arange(60), chosen)
            assert found.precision_at(k) == pytest.approx(metrics.precision_score(wrong, flagged))


def test_perfect_and_hopeless_orders():
    best = noise_detection([4, 3, 2, 1], [0, 1])
    assert (best.roc_auc, best.average_precision, best.precision_at(2)) == (1.0, 1.0, 1.0)
    assert noise_detection([1, 2, 3, 4], [0, 1]).roc_auc == 0.0
    same = noise_detection([1, 1, 1, 1], [0])
    assert (same.roc_auc, same.average_precision) == (0.5, 0.25)
    assert np.isnan(noise_detection([1, 2], [0, 1]).roc_auc)


def test_the_frame_is_the_curve():
    rng = np.random.default_rng(0)
    suspicion, wrong = rng.normal(size=300), rng.permutation(300)[:40]
    found = noise_detection(suspicion, wrong, (0.001, 0.1, 1.0))
    assert found.to_frame().equals(label_noise_curve(suspicion, wrong, (0.001, 0.1, 1.0)))
    assert found.to_frame()["inspected"].tolist() == [1, 30, 300]
    assert "40 wrong labels in 300 rows: ROC AUC" in repr(found)


def test_bad_input_is_refused():
    for suspicion, says in (([1, np.nan], "finite"), ([[1, 2]], "shape")):
        with pytest.raises(InputError, match=says):
            noise_detection(suspicion, [0])
    with pytest.raises(InputError, match="between 1 and 2"):
        noise_detection([1, 2], [0]).precision_at(3)
