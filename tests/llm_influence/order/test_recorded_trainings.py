"""Trainings of all kinds: recorded as an ordinary loop does them, and repeated bit for bit."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from influence.change import Reordered
from llm_influence import OptimizerRun, record
from llm_influence.examples import as_examples
from llm_influence.losses import causal_lm
from llm_influence.order.derivatives import Derivatives
from llm_influence.order.flat import Flat
from tests.llm_influence.models import lora, texts
from tests.llm_influence.order.recorded import OPTIMIZERS, batches, plain_gpt2, recorded


def assert_repeats(run: OptimizerRun) -> None:
    assert torch.equal(run.train(), run.final)
    assert torch.equal(run.train(Reordered(run.places.recorded)), run.final)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_recorded_weights_are_those_of_an_ordinary_loop(optimizer: str) -> None:
    """Forward, backward, clip model.parameters(), step, schedule; written out here."""
    model = plain_gpt2()
    make, settings = OPTIMIZERS[optimizer]
    moves = make(model.parameters(), **{"lr": 1e-2, **settings})
    schedule = torch.optim.lr_scheduler.LinearLR(moves, 1.0, 0.1, 4)
    own = copy.deepcopy(model)
    twin = _twin(moves, own)
    recording = record(own, twin, None, None, 0.5, 2)
    expected = []
    for at, batch in enumerate(batches(4) * 2):
        loss = causal_lm(model, batch).mean()
        expected.append(float(loss.detach()))
        (loss / 2).backward()
        if at % 2:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            twin.param_groups[0]["lr"] = moves.param_groups[0]["lr"]
            moves.step()
            schedule.step()
            moves.zero_grad()
        assert recording.step(batch) == expected[-1]
    run = recording.run
    assert recording.losses == expected
    assert torch.equal(run.final, run.flat.read(model))
    assert len({rates[0] for rates in run.recipe.rates}) == 4
    assert_repeats(run)


def _twin(optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The same optimizer of another model's parameters."""
    options = {k: v for k, v in optimizer.param_groups[0].items() if k in optimizer.defaults}
    made: Any = type(optimizer)
    return made([{**options, "params": list(model.parameters())}])


def test_schedules_are_followed() -> None:
    model = plain_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    recording = record(model, optimizer, scheduler=schedule)
    for batch in batches(4):
        recording.step(batch)
    rates = [rate for (rate,) in recording.run.recipe.rates]
    expected = [1e-2 * (1 + np.cos(np.pi * t / 4)) / 2 for t in range(4)]
    assert rates == pytest.approx(expected)
    assert_repeats(recording.run)


def test_groups_with_rates_and_decay_of_their_own() -> None:
    model = plain_gpt2()
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if "wte" in n], "lr": np.float64(1e-3)},
        {"params": [p for n, p in named if "wpe" in n], "weight_decay": np.float64(0.0)},
        {"params": [p for n, p in named if "w" + "te" not in n and "wpe" not in n]},
    ]
    for parameter in groups[1]["params"]:
        parameter.requires_grad_(False)  # a whole group is frozen
    recording = record(model, torch.optim.AdamW(groups, 1e-2, weight_decay=0.3), max_grad_norm=0.1)
    for batch in batches(3):
        recording.step(batch)
    run = recording.run
    assert run.recipe.rates[0] == (1e-3, 1e-2, 1e-2)
    assert "transformer.wpe.weight" not in run.flat.names
    assert_repeats(run)


def test_carried_state_of_some_parameters() -> None:
    """Parameters frozen in the steps before have another count; they are left out now."""
    model: Any = plain_gpt2()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = record(model, optimizer)
    first.step(batches(1)[0])
    model.transformer.wpe.requires_grad_(False)
    second = record(model, optimizer)
    for batch in batches(2):
        second.step(batch)
    third = record(model, optimizer)
    for batch in batches(2):
        third.step(batch)
    assert third.run.rule().taken == 3
    assert_repeats(third.run)


FORMS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "dict": lambda batch: batch,
    "BatchEncoding": lambda batch: _encoding(batch),
    "tuple": lambda batch: (batch["input_ids"], batch["labels"]),
    "list": lambda batch: [batch["input_ids"], batch["labels"]],
    "tensor": lambda batch: batch["input_ids"],
}


def _encoding(batch: dict[str, torch.Tensor]) -> Any:
    from transformers import BatchEncoding

    return BatchEncoding(dict(batch))


def _loss(model: nn.Module, batch: Any) -> torch.Tensor:
    if isinstance(batch, torch.Tensor):
        return causal_lm(model, {"input_ids": batch, "labels": batch})
    if isinstance(batch, tuple | list):
        return causal_lm(model, {"input_ids": batch[0], "labels": batch[1]})
    return causal_lm(model, batch)


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_all_forms_and_sizes(form: str) -> None:
    taken = [FORMS[form](b) for b in [*batches(3), *batches(1, size=2, seed=7)]]
    run = recorded(taken=taken, loss=_loss, epochs=2)
    assert run.n_batches == 4
    assert run.by("sample").n_train == 11
    assert_repeats(run)
    assert_repeats(run.by("sample"))
    plain = recorded(taken=[*batches(3), *batches(1, size=2, seed=7)], epochs=2)
    assert torch.equal(run.final, plain.final)


def test_loaders_batches_shuffled_anew() -> None:
    examples = [{k: v[0] for k, v in batch.items()} for batch in batches(7, size=1)]
    loader: Any = DataLoader(
        examples,  # pyright: ignore[reportArgumentType]
        batch_size=3,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    model = plain_gpt2()
    recording = record(model, torch.optim.Adam(model.parameters(), 1e-2))
    for _ in range(2):
        for batch in loader:
            recording.step(batch)
    run = recording.run.by("sample")
    assert run.n_train == 7
    assert run.places.counts.tolist() == [2] * 7
    assert run.places.epochs == (0, 7)
    assert_repeats(run)


def test_rows_of_examples_of_all_lengths() -> None:
    model = plain_gpt2()
    recording = record(model, torch.optim.Adam(model.parameters(), 1e-2), dataset=texts(7))
    for rows in ([0, 1, 2], np.array([3, 4, 5]), torch.tensor([6]), range(3)):
        recording.step(rows)
    run = recording.run
    assert run.n_batches == 3
    assert_repeats(run)
    other = run.by("sample").places.recorded[::-1].copy()
    assert not torch.equal(run.by("sample").train(Reordered(other)), run.final)


def test_examples_are_queries_one_each() -> None:
    model = plain_gpt2()
    recording = record(model, torch.optim.Adam(model.parameters(), 1e-2), dataset=texts(7))
    recording.step([0, 1])
    run = recording.run
    asked = as_examples(texts(3, seed=2))
    losses = run.losses(run.queries(asked))
    run.flat.write(model, run.final)
    expected = [float(causal_lm(model, asked.batch([i])).detach()) for i in range(3)]
    assert losses == pytest.approx(expected, abs=1e-6)
    assert run.queries(run.batches.examples).n_queries == 7
    again = run.queries(asked)
    assert run.queries(again) is again


def checkpointed(model: Any, reentrant: bool = False) -> nn.Module:
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model


@pytest.mark.parametrize("training", [True, False])
def test_either_mode_trains_alike(training: bool) -> None:
    run = recorded(model=plain_gpt2().train(training))
    assert run.model.training is training
    assert_repeats(run)
    assert torch.equal(run.final, recorded().final)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool) -> None:
    run, plain = recorded(model=checkpointed(plain_gpt2(), reentrant)), recorded()
    assert_repeats(run)
    torch.testing.assert_close(run.final, plain.final)
    torch.manual_seed(0)
    directions = torch.randn(2, run.flat.n)
    found = []
    for one in (run, plain):
        with one.derivatives().linearised(plain.final, plain.batch(0)) as at:
            found.append((at.gradient, *at.products(directions)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5)


class Newest(nn.Module):
    """What of a model the last versions of transformers will have: no name of old."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.is_activation_checkpointing = nn.Linear(1, 1), True

    def activation_checkpointing_enable(self, options: dict[str, bool]) -> None:
        self.options = options


class Oldest(nn.Module):
    """The names of transformers up to 5.23 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.is_gradient_checkpointing = nn.Linear(1, 1), True

    def gradient_checkpointing_enable(self, options: dict[str, bool]) -> None:
        self.options = options


@pytest.mark.parametrize("kind", [Newest, Oldest])
def test_checkpointing_is_found_by_either_name(kind: type[nn.Module]) -> None:
    model = kind()
    flat = Flat(("layer.bias",), (torch.Size([1]),), (0,), (0,))
    assert Derivatives(model, causal_lm, flat)._model.options == {"use_reentrant": False}


@pytest.mark.parametrize("model", [plain_gpt2, lambda: checkpointed(plain_gpt2())])
def test_derivatives_ask_for_nothing_deprecated(model: Callable[[], nn.Module]) -> None:
    run = recorded(model=model())
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        run.derivatives().losses(run.final, run.batch(0))


def test_adapters() -> None:
    model = lora().eval()
    run = recorded(model=model)
    assert all("lora" in name for name in run.flat.names)
    assert_repeats(run)


def test_double_precision_and_fused_steps() -> None:
    assert_repeats(recorded(model=plain_gpt2().double()))
    model = plain_gpt2()
    recording = record(model, torch.optim.AdamW(model.parameters(), 1e-2, fused=True))
    for batch in batches(2):
        recording.step(batch)
    assert_repeats(recording.run)
