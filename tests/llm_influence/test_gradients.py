"""Gradients by hooks against autograd, one example at a time."""

import pytest
import torch

from llm_influence.projection import Identity
from llm_influence.rows import RowMap
from llm_influence.run import trace
from tests.llm_influence.models import CAUSAL, bert, labelled, texts
from tests.reference import autograd


@pytest.mark.parametrize("name", [*CAUSAL, "bert"])
def test_gradients_are_those_of_autograd(name):
    model = (bert() if name == "bert" else CAUSAL[name]()).double()
    examples = labelled(5) if name == "bert" else texts(5)
    run = trace(model, examples, batch_size=3)
    assert run.coverage.share == 1.0, run.coverage.uncovered
    of_whole = RowMap(run, Identity())
    rows = of_whole.rows(0, run.examples)
    for i, example in enumerate(examples):
        expected = autograd.gradient(model, example)
        for name, block in run.coverage.blocks.items():
            own = rows[i, of_whole.bound.segments[name].columns].reshape(block.shape)
            gap = float((own - block.arranged(expected)).abs().max())
            assert gap < 1e-7, f"{name} of example {i} is off by {gap:.2g}"
    flat = autograd.flat(model, examples)
    torch.testing.assert_close(rows @ rows.T, flat @ flat.T, rtol=1e-7, atol=1e-9)
