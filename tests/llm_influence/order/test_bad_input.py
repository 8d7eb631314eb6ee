"""What `record` and its calls refuse, and that a refused call leaves the recording as it was."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from influence.errors import (
    InfluenceError,
    InputError,
    TrainingDataError,
    UnsupportedModelError,
)
from llm_influence import record
from llm_influence.order.recorder import Recording
from tests.llm_influence.models import gpt2, texts
from tests.llm_influence.order.recorded import batches, plain_gpt2, recorded


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def squares(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return (model(x)[:, 0] - y).square()


def points(n: int, size: int = 3) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(size, 3), torch.randn(size)) for _ in range(n)]


def recording(
    model: nn.Module | None = None, loss: Any = squares, **options: Any
) -> tuple[Recording, nn.Module, torch.optim.Optimizer]:
    model = network() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    return record(model, optimizer, loss, **options), model, optimizer


WRONG: Any = "text"


class Adam(torch.optim.Adam):
    """A user's optimizer of a known name."""


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "Adagrad": lambda p: torch.optim.Adagrad(p),
    "LBFGS": lambda p: torch.optim.LBFGS(p),
    r"test_bad_input\.Adam": lambda p: Adam(p),
    "amsgrad=False": lambda p: torch.optim.Adam(p, amsgrad=True),
    "maximize=False": lambda p: torch.optim.SGD(p, maximize=True),
    "tensors for": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1), foreach=False),
    r"tensors for \['betas'\]": lambda p: torch.optim.AdamW(
        p, betas=(torch.tensor(0.9), torch.tensor(0.99)), foreach=False
    ),
    "str": lambda _: "adam",
}


@pytest.mark.parametrize("message", OPTIMIZERS)
def test_unknown_optimizers_are_named(message: str) -> None:
    model = network()
    with pytest.raises(UnsupportedModelError, match=message):
        record(model, OPTIMIZERS[message](model.parameters()), squares)


def plateau(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


def of_another(_: Any) -> Any:
    return torch.optim.lr_scheduler.LinearLR(torch.optim.Adam(network().parameters()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, o: record(m, torch.optim.Adam(network().parameters()), squares), "of 4 are not"),
        (lambda _, o: record(WRONG, o, squares), "torch module"),
        (lambda m, o: record(nn.Tanh(), o, squares), "no parameters"),
        (lambda m, o: record(m.to("meta"), o, squares), "meta"),
        (lambda m, o: record(m, o, WRONG), r"loss\(model, batch\)"),
        (lambda m, o: record(m, o), "pass loss"),
        (lambda m, o: record(m, o, squares, plateau(o)), "ReduceLROnPlateau"),
        (lambda m, o: record(m, o, squares, of_another(o)), "of another"),
        (lambda m, o: record(m, o, squares, "cosine"), "a str"),
        (lambda m, o: record(m, o, squares, accumulate=0), "accumulate"),
        (lambda m, o: record(m, o, squares, accumulate=True), "accumulate"),
        (lambda m, o: record(m, o, squares, max_grad_norm=0.0), "max_grad_norm"),
        (lambda m, o: record(m, o, squares, max_grad_norm=float("nan")), "max_grad_norm"),
        (lambda m, o: record(m, o, squares, dataset=[]), "at least one"),
        (lambda m, o: record(m, o, squares, dataset="text"), "sequence of examples"),
    ],
)
def test_arguments_that_do_not_fit(make: Any, message: str) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises((InputError, UnsupportedModelError), match=message):
        make(model, optimizer)


def test_compiled_models_are_refused() -> None:
    model = network()
    compiled: Any = torch.compile(model)
    with pytest.raises(UnsupportedModelError, match="compile"):
        record(compiled, torch.optim.Adam(model.parameters()), squares)


def test_examples_too_long_for_the_model_are_refused() -> None:
    model = plain_gpt2(n_positions=4)
    with pytest.raises(InputError, match="at most 4 tokens"):
        record(model, torch.optim.Adam(model.parameters()), dataset=texts(9))


def doubtful(how: Callable[[Tensor], Any]) -> Callable[[nn.Module, Any], Any]:
    return lambda model, batch: how(squares(model, batch))


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (lambda x: x.mean(), InputError, r"got \(\)"),
        (lambda x: x[:, None], InputError, r"got \(3, 1\)"),
        (lambda x: float(x.sum()), InputError, "got float"),
        (lambda x: x[:0], InputError, r"got \(0,\)"),
        (lambda x: x.detach(), InputError, "without"),
        (lambda x: x[:2], InputError, "Expected tensors of 2 examples"),
        (lambda x: x * torch.rand(3), InputError, "dropout"),
        (lambda x: x / 0, TrainingDataError, "finite losses"),
        (lambda x: x * float("nan"), TrainingDataError, "finite losses"),
    ],
    ids=["scalar", "column", "number", "empty", "detached", "fewer", "random", "inf", "nan"],
)
def test_losses_that_cannot_be_trained_on(
    how: Any, error: type[InfluenceError], message: str
) -> None:
    going, model, _ = recording(loss=doubtful(how))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(error, match=message):
        going.step(points(1)[0])
    assert all(map(torch.equal, before, model.parameters()))
    with pytest.raises(InputError, match="got 0 calls"):
        _ = going.run


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.randn(3, 3), "y"), "a str"),
        ({"x": torch.randn(3, 3), "y": [1.0, 2.0, 3.0]}, "a float"),
        ((torch.randn(3, 3), torch.randn(())), "got one of shape"),
        (3, "a int"),
    ],
    ids=["text", "numbers", "one number", "no batch"],
)
def test_batches_that_cannot_be_taken_apart(batch: Any, message: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3)
    going, *_ = recording(loss=lambda model, _: model(x)[:, 0])
    with pytest.raises(InputError, match=message):
        going.step(batch)
    assert going.losses == []


def test_a_refused_call_leaves_the_recording_as_it_was() -> None:
    x, y = points(1)[0]
    good = points(4)
    going, *_ = recording(accumulate=2)
    for batch in good:
        for bad in ((x, y / 0), (x, y[:2]), (x, "y")):
            with pytest.raises((InfluenceError, TypeError, RuntimeError)):
                going.step(bad)
        going.step(batch)
    plain, *_ = recording(accumulate=2)
    for batch in good:
        plain.step(batch)
    assert torch.equal(going.run.final, plain.run.final)
    assert going.run.fingerprint == plain.run.fingerprint
    assert torch.equal(going.run.train(), going.run.final)


class Broken(torch.autograd.Function):
    """A backward pass that fails."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise KeyboardInterrupt


def test_a_call_that_fails_halfway_ends_the_recording() -> None:
    broken = False

    def loss(model: nn.Module, batch: Any) -> Tensor:
        losses = squares(model, batch)
        found: Any = Broken.apply(losses) if broken else losses
        return found

    going, *_ = recording(loss=loss)
    going.step(points(1)[0])
    broken = True
    with pytest.raises(KeyboardInterrupt):
        going.step(points(2)[1])
    for ask in (lambda: going.step(points(1)[0]), lambda: going.run):
        with pytest.raises(InputError, match="call 1 of step failed"):
            ask()


def change_data(model: nn.Module, optimizer: Any) -> None:
    next(model.parameters()).data[0, 0] += 1e-3


def load_state(model: nn.Module, optimizer: Any) -> None:
    model.load_state_dict(network().state_dict())


def other_step(model: nn.Module, optimizer: Any) -> None:
    squares(model, points(1)[0]).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("change", [change_data, load_state, other_step])
def test_a_model_changed_between_calls_is_noticed(change: Any) -> None:
    going, model, optimizer = recording()
    going.step(points(1)[0])
    change(model, optimizer)
    with pytest.raises(InputError, match="were changed since"):
        going.step(points(1)[0])
    with pytest.raises(InputError, match="were changed since"):
        _ = going.run


def test_later_changes_of_the_model_do_not_reach_the_run() -> None:
    model = plain_gpt2()
    frozen: Any = model
    frozen.transformer.wpe.requires_grad_(False)
    run = recorded(model=model)
    queries = run.queries(batches(2, seed=4))
    before = run.losses(queries)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert np.array_equal(run.losses(queries), before)
    assert torch.equal(run.train(), run.final)


def test_gradients_left_by_others_are_not_taken() -> None:
    going, model, _ = recording()
    plain, *_ = recording()
    for batch in points(3):
        squares(model, points(1)[0]).sum().backward()
        going.step(batch)
        plain.step(batch)
    assert torch.equal(going.run.final, plain.run.final)


def test_a_batch_overwritten_in_place_is_noticed() -> None:
    going, *_ = recording()
    x, y = points(1)[0]
    for _ in range(3):
        x += 1
        going.step((x, y))
    with pytest.raises(InputError, match="overwritten"):
        _ = going.run


def test_options_that_change_are_noticed() -> None:
    going, _, optimizer = recording()
    going.step(points(1)[0])
    optimizer.param_groups[0]["betas"] = (0.5, 0.9)
    with pytest.raises(InputError, match="betas"):
        going.step(points(1)[0])
    going, _, optimizer = recording()
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(InputError, match="1 groups, got 2"):
        going.step(points(1)[0])


class Sometimes(nn.Module):
    """A parameter that only some batches use."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.extra = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (self.extra if x.sum() > 0 else 1)


def test_parameters_used_now_and_then_are_refused() -> None:
    going, *_ = recording(Sometimes())
    x = torch.ones(3, 3)
    going.step((x, x[:, 0]))
    with pytest.raises(InputError, match="now and then"):
        going.step((-x, x[:, 0]))
    with pytest.raises(InputError, match="failed after"):
        going.step((x, x[:, 0]))


def test_a_training_that_diverges_says_so() -> None:
    model = nn.Linear(3, 1)
    going = record(model, torch.optim.SGD(model.parameters(), 1e38), squares)
    x, y = points(1)[0]
    going.step((x, y + 1e3))
    with pytest.raises(TrainingDataError, match="weights that are not finite"):
        _ = going.run
    with pytest.raises(TrainingDataError, match=r"finite losses, got .* at call 1"):
        going.step((x, y))


def test_autocast_is_refused() -> None:
    going, *_ = recording()
    with torch.autocast("cpu"), pytest.raises(InputError, match="autocast"):
        going.step(points(1)[0])


def test_batch_normalisation_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    going, *_ = recording(model)
    with pytest.raises(InputError, match="evaluation mode"):
        going.step(points(1)[0])
    assert model[1].num_batches_tracked == 0
    model[1].eval()
    going.step(points(1)[0])
    assert torch.equal(going.run.train(), going.run.final)


def test_whole_steps_are_wanted() -> None:
    going, *_ = recording(accumulate=3)
    for batch in points(4):
        going.step(batch)
    with pytest.raises(InputError, match="2 times more"):
        _ = going.run


@pytest.mark.parametrize(
    "rows",
    [
        [], [0, 0], [-1], [9], [0.5], [True], "01", {"rows": [0]}, [[0], [1, 2]], [[0]], 3,
        torch.tensor([0.0]), None,
    ],
    ids=str,
)  # fmt: skip
def test_steps_of_a_dataset_are_positions(rows: Any) -> None:
    model = plain_gpt2()
    going = record(model, torch.optim.Adam(model.parameters()), dataset=texts(9))
    with pytest.raises(InputError, match="positions"):
        going.step(rows)
    going.step([0, 1])
    going.step(torch.tensor([2, 3]))
    assert torch.equal(going.run.train(), going.run.final)


def test_a_random_collator_is_refused() -> None:
    from torch.utils.data import DataLoader

    def collate(items: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = (torch.stack(parts) for parts in zip(*items, strict=True))
        return x + torch.rand_like(x), y

    examples = list(zip(*points(1, 9)[0], strict=True))
    loader: Any = DataLoader(examples, collate_fn=collate)  # pyright: ignore[reportArgumentType]
    going, *_ = recording(dataset=loader)
    with pytest.raises(InputError, match="random collator"):
        going.step([0, 1])


def test_dropout_is_refused_and_evaluation_mode_is_not() -> None:
    model = gpt2()
    going = record(model, torch.optim.Adam(model.parameters()))
    state = torch.random.get_rng_state()
    with pytest.raises(InputError, match="dropout"):
        going.step(batches(1)[0])
    assert torch.equal(torch.random.get_rng_state(), state), "the refusal drew random numbers"
    model.eval()
    going.step(batches(1)[0])
    assert torch.equal(going.run.train(), going.run.final)
