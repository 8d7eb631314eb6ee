"""What a recording cannot hold is noticed: while recording, or by training again."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from influence.errors import InputError, ParityError
from llm_influence import Replay, SampleOrder
from tests.llm_influence.order.test_bad_input import points, recording


def noisy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)).eval()


def test_another_mode_between_calls_is_noticed() -> None:
    recorded, model, _ = recording(noisy())
    first, second = points(2)
    recorded.step(first)
    model.train()
    with pytest.raises(InputError, match=r"mode of the calls before, but at call 1"):
        recorded.step(second)
    model.eval()
    recorded.step(second)
    model.train()  # after the last call
    run = recorded.run
    assert torch.equal(run.train(), run.final)


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 1), torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.layer(x)
        return self.seen


def test_models_that_cannot_be_copied_are_refused_by_the_first_call() -> None:
    model = Remembers()
    model(torch.zeros(1, 3))
    with pytest.raises(InputError, match=r"copy\.deepcopy"):
        recording(model)[0].step(points(1)[0])


def test_models_that_remember_their_last_pass_are_recorded() -> None:
    recorded, _, _ = recording(Remembers())
    for batch in points(3):
        recorded.step(batch)
    run = recorded.run
    assert torch.equal(run.train(), run.final)


def forget(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.state.clear()


def hook(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    next(model.parameters()).register_hook(lambda gradient: -gradient)


@pytest.mark.parametrize("meddle", [forget, hook])
@pytest.mark.parametrize(
    "fit", [lambda run: SampleOrder(calibrate=0).fit(run), lambda run: Replay().fit(run)]
)
def test_what_a_recording_does_not_hold_is_noticed(meddle: Any, fit: Any) -> None:
    recorded, model, optimizer = recording()
    for batch in points(3):
        recorded.step(batch)
        meddle(model, optimizer)
    with pytest.raises(ParityError, match="What the recording does not hold took part"):
        fit(recorded.run)


def test_what_changes_before_the_first_call_is_recorded() -> None:
    recorded, model, _ = recording(noisy().train())
    batches = points(3)
    with pytest.raises(InputError, match="Set dropout to 0"):
        recorded.step(batches[0])
    model[1].p = 0.0
    model.append(nn.Identity())
    for batch in batches:
        recorded.step(batch)
    run = recorded.run
    assert torch.equal(run.train(), run.final)


def test_weights_changed_before_the_first_call_are_noticed() -> None:
    recorded, model, _ = recording()
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(InputError, match=r"as record\(\) found them"):
        recorded.step(points(1)[0])
