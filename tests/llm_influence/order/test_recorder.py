"""Recording a training, and repeating it."""

from typing import Any

import pytest
import torch

from influence.change import Reordered, Without
from influence.errors import InputError
from llm_influence import record
from tests.llm_influence.models import texts
from tests.llm_influence.order.recorded import OPTIMIZERS, batches, plain_gpt2, recorded


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


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"input_ids": torch.ones(1, 3).long()}, "a dict with which it fails: KeyError.'labels'"),
        (texts(2), "got a list"),
        (None, "got a NoneType"),
    ],
    ids=["no labels", "unencoded", "none"],
)
def test_batches_that_the_loss_does_not_take(batch: Any, message: str) -> None:
    model = plain_gpt2()
    begun = record(model, torch.optim.Adam(model.parameters()))
    with pytest.raises(InputError, match=message):
        begun.step(batch)
    begun.step(batches(1)[0])
    assert begun.run.n_steps == 1
