"""Chance is chance."""

from typing import Any

import numpy as np
import pytest
import scipy.stats

from llm_influence.baselines import Random
from llm_influence.run import trace
from tests.llm_influence.models import gpt2, texts


def test_values_are_standard_normal_and_independent():
    run = trace(gpt2(n_embd=4, n_layer=1), texts(300, longest=20, shortest=12))
    values = Random().fit(run).explain(texts(30, seed=1, shortest=8)).values
    assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 0.01
    axis: Any
    for axis in (values, values.T):
        between = np.corrcoef(axis)[np.triu_indices(len(axis), 1)]
        assert abs(between.mean()) < 0.01
        assert between.std() == pytest.approx(1 / np.sqrt(axis.shape[1] - 1), rel=0.1)
    other = Random(seed=1).fit(run).explain(texts(30, seed=1, shortest=8)).values
    assert abs(np.corrcoef(values.ravel(), other.ravel())[0, 1]) < 0.04
