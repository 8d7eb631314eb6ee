"""Recording a training, and repeating it."""

import pytest
import torch

from influence.change import Reordered, Without
from tests.llm_influence.order.recorded import OPTIMIZERS, recorded


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_repeating_the_recorded_training_gives_the_same_bits(
    optimizer: str, accumulate: int
) -> None:
    run = recorded(optimizer, epochs=2, accumulate=accumulate, max_grad_norm=0.5)
    assert torch.equal(run.train(), run.final)
    assert torch.equal(run.train(Reordered(run.places.recorded)), run.final)
    other = run.train(Reordered(run.places.recorded[::-1].copy()))
    assert not torch.equal(other, run.final)
    assert not torch.equal(run.train(Without([0])), run.final)
