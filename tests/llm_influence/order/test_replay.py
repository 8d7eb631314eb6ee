"""`Replay` against autograd through the whole training, and against real trainings."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from influence.change import Reordered, Reweighted, random_subsets
from influence.errors import InputError, NotFittedError, ParityError, UnsupportedChangeError
from llm_influence import record, trace
from llm_influence.order.replay import Replay
from tests.llm_influence.models import texts
from tests.llm_influence.order.recorded import batches, plain_gpt2, recorded
from tests.reference import unrolled

RATES = [1e-2, 8e-3, 6e-3, 4e-3]
# Two epochs; each step takes two batches of three of the twelve sequences.
ORDER = (
    [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]],
    [[6, 7, 8], [0, 1, 2], [9, 4, 11], [3, 10, 5]],
)
STEPS = [[epoch[k], epoch[k + 1]] for epoch in ORDER for k in (0, 2)]
OPTIMIZERS: dict[str, tuple[Any, Any, dict[str, Any], float | None]] = {
    "adam": (torch.optim.Adam, unrolled.adam, {}, None),
    "adam, decay, clipped": (
        torch.optim.Adam, unrolled.adam, {"weight_decay": 0.1, "betas": (0.8, 0.9)}, 0.5,
    ),
    "adamw, clipped": (torch.optim.AdamW, unrolled.adam, {"weight_decay": 0.1}, 0.5),
    "sgd": (torch.optim.SGD, unrolled.sgd, {}, None),
    "nesterov": (torch.optim.SGD, unrolled.sgd, {"momentum": 0.9, "nesterov": True}, 0.5),
    "momentum, decay": (
        torch.optim.SGD, unrolled.sgd,
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}, None,
    ),
}  # fmt: skip


def exact_gpt2() -> Any:
    return plain_gpt2(
        n_embd=8, n_layer=1, n_positions=6, vocab_size=23, attn_implementation="eager"
    ).double()


def sequences(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(3, 23, (n, 6)))


def as_batches(ids: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": row[None], "labels": row[None]} for row in ids]


def trained(optimizer: str) -> Any:
    make, _, options, clip = OPTIMIZERS[optimizer]
    model = exact_gpt2()
    moved = make(model.parameters(), lr=RATES[0], **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(moved, lambda t: [*RATES, 0][t] / RATES[0])
    examples = [{"input_ids": row, "labels": row} for row in sequences(12)]
    recording = record(
        model, moved, scheduler=schedule, max_grad_norm=clip, accumulate=2, dataset=examples
    )
    for batches_of_step in STEPS:
        for rows in batches_of_step:
            recording.step(rows)
    return recording.run


def by_autograd(
    optimizer: str,
    queries: torch.Tensor,
    kept: np.ndarray | None = None,
    halves_seed: int | None = None,
) -> np.ndarray:
    """Effect of each sequence at each place, shape (n_queries, n_places).

    Args:
        optimizer: Of `OPTIMIZERS`.
        queries: Token ids, shape (n_queries, length).
        kept: Weight of each sequence, shape (12,); None for ones.
        halves_seed: Each step absorbs the mean over a random half of its sequences and the rest.
    """
    make, update, options, clip = OPTIMIZERS[optimizer]
    options = {**options, "decoupled": make is torch.optim.AdamW}
    weight = torch.from_numpy(np.ones(12) if kept is None else kept)
    places = [[weight[batch].clone().requires_grad_() for batch in step] for step in STEPS]
    draws: list[Any] = [[step] for step in places]
    if halves_seed is not None:
        draws = [halved(step, [halves_seed, t]) for t, step in enumerate(places)]
    weights = unrolled.train(
        exact_gpt2(), update, options, sequences(12), STEPS, draws, RATES, clip
    )
    asked = [place for step in places for place in step]
    found = [
        torch.cat(torch.autograd.grad(loss, asked, retain_graph=True))
        for loss in unrolled.losses(exact_gpt2(), weights, queries)
    ]
    return -torch.stack(found).numpy()


def halved(shares: list[torch.Tensor], seed: list[int]) -> list[list[torch.Tensor]]:
    """A random half of the six sequences of a step and the rest; a change counts in both."""
    left_out = torch.zeros(6).double()
    left_out[np.random.default_rng(seed).permutation(6)[:3]] = 1
    return [
        [share - out for share, out in zip(shares, outs.split(3), strict=True)]
        for outs in (1 - left_out, left_out)
    ]


def check_close(found: np.ndarray, expected: np.ndarray, share: float) -> None:
    gap, scale = np.abs(found - expected).max(), np.abs(expected).max()
    assert gap <= share * scale, f"off by {gap:.2g} of {scale:.2g}"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_sweep_is_autograd_through_the_whole_training(optimizer: str) -> None:
    queries = sequences(3, seed=1)
    expected = by_autograd(optimizer, queries)
    run = trained(optimizer)
    replay = Replay("sample", smoothing=0, calibrate=0).fit(run)
    check_close(replay.at_steps(as_batches(queries)), expected, 1e-9)
    by_row = np.zeros((12, 3))
    np.add.at(by_row, np.concatenate([rows for step in STEPS for rows in step]), expected.T)
    values = replay.explain(as_batches(queries)).values
    check_close(values, by_row, 1e-9)
    check_close(replay.total(as_batches(queries)), by_row.sum(axis=1), 1e-9)


def test_averaging_takes_the_sweeps_around_random_halves() -> None:
    queries = sequences(2, seed=1)
    halves = [1 - half.removed(12) for half in random_subsets(12, 0.5, 2, seed=3)]
    expected = [by_autograd("adam", queries, kept) for kept in (None, *halves)]
    replay = Replay("sample", smoothing=0, average=2, calibrate=0, seed=3).fit(trained("adam"))
    wanted = (expected[0] + (expected[1] + expected[2]) / 2) / 2
    check_close(replay.at_steps(as_batches(queries)), wanted, 1e-9)


@pytest.mark.parametrize("optimizer", ["adam, decay, clipped", "momentum, decay"])
def test_the_path_of_halves_absorbs_the_mean_over_both(optimizer: str) -> None:
    queries = sequences(2, seed=1)
    expected = by_autograd(optimizer, queries, halves_seed=5)
    replay = Replay("sample", smoothing=0, path="halves", calibrate=0, seed=5).fit(
        trained(optimizer)
    )
    check_close(replay.at_steps(as_batches(queries)), expected, 1e-9)


def test_both_paths_count_alike() -> None:
    queries = sequences(2, seed=1)
    recorded, halves = (by_autograd("adam", queries, halves_seed=seed) for seed in (None, 5))
    replay = Replay("sample", smoothing=0, path="both", calibrate=0, seed=5).fit(trained("adam"))
    check_close(replay.at_steps(as_batches(queries)), (recorded + halves) / 2, 1e-9)


@pytest.mark.parametrize("unit", ["batch", "sample"])
def test_values_are_the_slopes_of_real_trainings(unit: Any) -> None:
    run = trained("adam, decay, clipped").by(unit)
    queries = run.queries(as_batches(sequences(2, seed=1)))
    values = Replay(unit, smoothing=0, calibrate=0).fit(run).explain(queries).values
    for row in (0, run.n_train - 1):
        step = np.eye(run.n_train)[row] * 1e-4
        more, less = (
            run.losses_at(run.train(Reweighted(1 + sign * step)), queries) for sign in (1, -1)
        )
        check_close(values[row], (less - more) / 2e-4, 1e-4)


@pytest.mark.parametrize("optimizer", ["adam", "nesterov"])
def test_a_batch_is_the_sum_of_its_samples(optimizer: str) -> None:
    run = recorded(optimizer, epochs=2, model=plain_gpt2(n_embd=8, n_layer=1).double())
    queries = [*batches(3, seed=1)]
    of_batches = Replay(calibrate=0).fit(run).at_steps(queries)
    of_samples = Replay("sample", calibrate=0).fit(run).at_steps(queries)
    assert of_batches.shape == (3, 8)
    check_close(of_batches, of_samples.reshape(3, 8, 3).sum(axis=2), 1e-9)


def test_smoothing_is_the_typical_root_of_the_second_moment() -> None:
    model = torch.nn.Linear(2, 1, bias=False).double()
    adam = torch.optim.Adam(model.parameters(), 0.1)
    recording = record(model, adam, lambda model, x: model(x)[:, 0])
    given = np.array([[[1.0, -3.0]], [[2.0, 0.0]]])
    for batch in given:
        recording.step(torch.from_numpy(batch))
    first, second = given[0, 0] ** 2, (0.999 * given[0, 0] ** 2 + given[1, 0] ** 2) / 1.999
    lower = [np.sort(np.sqrt(v))[0] for v in (first, second)]  # torch's median of two
    replay = Replay(calibrate=0).fit(recording.run)
    assert np.isclose(replay.smoothing_, np.mean(lower))
    assert replay.findings_["smoothing"] == replay.smoothing_
    assert Replay(calibrate=0).fit(recorded("sgd")).smoothing_ == 0


def test_parameters_without_a_gradient_do_not_spoil_the_others() -> None:
    model = plain_gpt2(n_embd=8, n_layer=1, n_positions=32).double()
    run = recorded(model=model)
    assert np.isfinite(
        Replay(smoothing=0, calibrate=0).fit(run).explain(batches(2, seed=1)).values
    ).all()


def test_the_answer_is_a_loss() -> None:
    answer = Replay().fit(recorded()).explain(batches(1, seed=1))
    assert answer.provenance.unit == "loss"
    assert answer.provenance.parameters["unit"] == "batch"
    assert float(answer.provenance.run["path off by at most"]) < 1e-4


def test_arguments_and_runs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="unit must be"):
        Replay("token")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="smoothing must be"):
        Replay(smoothing=-1)
    with pytest.raises(InputError, match="path must be"):
        Replay(path="other")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="average must be"):
        Replay(average=-1)
    with pytest.raises(InputError, match="recorded training"):
        Replay().fit(trace(plain_gpt2(), texts(3)))
    with pytest.raises(InputError, match="recorded training"):
        Replay().fit(plain_gpt2(), texts(3))
    with pytest.raises(NotFittedError):
        Replay().total(batches(1))
    replay, run = Replay(calibrate=0).fit(recorded()), recorded()
    with pytest.raises(UnsupportedChangeError, match="Reordered"):
        replay.predict(Reordered(run.places.recorded), batches(1))
    with pytest.raises(ParityError, match="rounding is magnified"):
        Replay().fit(replace(run, final=run.final + 0.1))


def test_a_clipped_step_of_one_batch_hides_the_weight_of_its_batch() -> None:
    run = recorded(max_grad_norm=0.01)
    with pytest.raises(UnsupportedChangeError, match="gradients are clipped"):
        Replay("batch", calibrate=0).fit(run)
    Replay("sample", calibrate=0).fit(run)
    Replay("batch", path="halves", calibrate=0).fit(run)
