"""Items tried at places: on losses linear in the weights it is what really training them does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from influence.change import Reordered
from llm_influence import OptimizerRun, SampleOrder, record
from llm_influence.order import basis as bases
from llm_influence.order import contexts, galerkin
from llm_influence.order.galerkin import Galerkin
from llm_influence.order.mean_field import MeanField
from llm_influence.order.search import shuffled
from tests.llm_influence.order.tiny import adapted, pairs

ADAM, ADAMW = torch.optim.Adam, torch.optim.AdamW
QUERIES = pairs(2, seed=5)
SIZE = 5
EXACT = MeanField(orders=0, knots=None, curvature=None, smoothing=0.0, contexts=1)


def outputs(model: nn.Module, batch: Tensor) -> Tensor:
    """Losses that are linear in the weights."""
    return model(batch)[:, 0]


def some(n: int, sizes: int = 3, seed: int = 0) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randn(sizes, SIZE, generator=drawn, dtype=torch.float64) for _ in range(n)]


class Straight:
    """A training on losses that are linear in the weights, recorded and done by hand."""

    def __init__(
        self, make: Any = ADAM, before: int = 0, most: float | None = None, accumulate: int = 1,
        order: tuple[int, ...] = (0, 1, 2, 3), **options: Any,
    ) -> None:  # fmt: skip
        self.make, self.before, self.most, self.accumulate = make, before, most, accumulate
        self.options, self.batches = {"betas": (0.8, 0.9), **options}, some(4)
        model, optimizer = self._begun()
        recording = record(model, optimizer, outputs, max_grad_norm=most, accumulate=accumulate)
        for i in order:
            recording.step(self.batches[i])
        self.run: OptimizerRun = recording.run

    def _begun(self) -> tuple[nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(SIZE, 1, bias=False).double()
        optimizer = self.make(model.parameters(), lr=0.01, **self.options)
        for batch in some(self.before, seed=9):
            optimizer.zero_grad()
            outputs(model, batch).mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        return model, optimizer

    def really(self, items: Any) -> Tensor:
        """The weights after training on any items."""
        model, optimizer = self._begun()
        for step in np.reshape(items, (-1, self.accumulate)):
            for i in step:
                (outputs(model, self.batches[i]).mean() / self.accumulate).backward()
            if self.most is not None:
                nn.utils.clip_grad_norm_(model.parameters(), self.most)
            optimizer.step()
            optimizer.zero_grad()
        return model.weight.detach()[0]

    def tried(self, context: Any) -> Tensor:
        """The weights with every item at every place of an order, shape (n_places, n_items, n)."""
        n = len(context)
        placed = [[np.r_[context[:p], i, context[p + 1 :]] for i in range(4)] for p in range(n)]
        return torch.stack([torch.stack([self.really(one) for one in row]) for row in placed])


def positions(run: OptimizerRun, method: MeanField, queries: list[Tensor]) -> Tensor:
    found = method.build(run, 0, False).ask(run.queries(queries)).positions()
    return torch.from_numpy(found - found.mean(axis=2, keepdims=True))


CASES: dict[str, dict[str, Any]] = {
    "fresh": {},
    "carried": {"before": 3},
    "decay": {"weight_decay": 0.0, "make": ADAMW},
    "clipped": {"most": 0.5},
    "accumulated": {"accumulate": 2},
    "two epochs": {"order": (0, 1, 2, 3, 2, 3, 1, 0)},
}


@pytest.mark.parametrize("case", CASES)
def test_positions_are_what_real_trainings_with_an_item_elsewhere_do(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "POOL", 1)
    monkeypatch.setattr(contexts, "TOGETHER", 8)
    straight, queries = Straight(**CASES[case]), some(2, seed=5)
    run = straight.run
    ends = straight.tried(shuffled(run.places, 1, 0)[0])
    wanted = torch.stack([ends @ query.mean(dim=0) for query in queries])
    wanted -= wanted.mean(dim=2, keepdim=True)
    first = [run.places.of_step(step).start for step in run.places.steps]
    wanted = wanted[:, first]  # of the places of a step the first is tried
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(positions(run, EXACT, queries), wanted, rtol=1e-7, atol=1e-10)


def test_every_coordinate_has_a_context_of_its_own_and_passes_are_averaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contexts, "POOL", 2)
    straight = Straight()
    run, coordinates = straight.run, list(torch.eye(SIZE).double()[:, None])
    found = positions(run, EXACT, coordinates)
    both = [straight.tried(context) for context in shuffled(run.places, 2, 0)]
    wanted = [end.movedim(2, 0) - end.movedim(2, 0).mean(dim=2, keepdim=True) for end in both]
    which = [
        [torch.allclose(a, b, rtol=1e-7, atol=1e-10) for a, b in zip(found, end, strict=True)]
        for end in wanted
    ]
    assert all(sum(pair) == 1 for pair in zip(*which, strict=True))
    assert any(which[0]) and any(which[1])
    twice = replace(EXACT, contexts=2)
    other = EXACT.build(run, 1, False).ask(run.queries(coordinates)).positions()
    mean = (found + torch.from_numpy(other - other.mean(axis=2, keepdims=True))) / 2
    torch.testing.assert_close(positions(run, twice, coordinates), mean)


@pytest.mark.parametrize("case", CASES)
def test_replays_without_curvature_are_these_sums(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "ENOUGH", 2.0)
    monkeypatch.setattr(galerkin, "TABLES", 100)
    run, queries = Straight(**CASES[case]).run, some(2, seed=5)
    orders = shuffled(run.places, 5, 3)
    found, wanted = (
        method.build(run, 0, False).ask(run.queries(queries)).losses(orders)
        for method in (Galerkin(columns=100, paths=10, contexts=1), EXACT)
    )
    assert (wanted - wanted[0]).std() > 1e-4
    np.testing.assert_allclose(found - found[0], wanted - wanted[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [MeanField(), Galerkin()])
def test_swapping_equal_items_does_nothing(method: Any) -> None:
    (x, y), *others = pairs(3)
    again = (torch.cat([x, x]), torch.cat([y, y]))  # another batch, of the same mean loss
    run = adapted(batches=[(x, y), *others, again])
    order = SampleOrder(method, calibrate=0).fit(run, progress=False)
    same, other = order.ask(QUERIES).effects([Reordered([3, 1, 2, 0]), Reordered([1, 0, 2, 3])])
    assert np.abs(same).max() < 1e-9 < 1e-5 < np.abs(other).max()


@pytest.mark.parametrize("method", [MeanField, Galerkin])
def test_it_ranks_orders_from_a_fresh_state_better_than_derivatives(method: Any) -> None:
    run = adapted(batches=pairs(8, 4), rate=2e-3)
    found = []
    for n in (0, None):
        order = SampleOrder(method(contexts=n), calibrate=40).fit(run, progress=False)
        calibration = order.ask(QUERIES).calibration
        assert calibration is not None
        found.append((calibration.spearman, abs(calibration.slope - 1)))
    assert found[1][0] > max(0.97, found[0][0]) and found[1][1] < min(0.1, found[0][1])


def test_parts_of_groups_keep_their_options() -> None:
    flat = adapted(groups=[{}, {"lr": 3e-3}]).flat
    whole = flat.spread([1.0, 2.0], torch.zeros(0))
    assert isinstance(whole, torch.Tensor) and flat.n == 26
    for part in (slice(0, 5), slice(10, 20), slice(20, 26), slice(0, 26)):
        found = flat.part(part)
        spread = torch.as_tensor(found.spread([1.0, 2.0], whole)).expand(found.n)
        assert torch.equal(spread, whole[part])


def test_passes_follow_the_size_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Straight().run
    asked = [contexts.n_passes(n, run) for n in (None, 3, 0)]
    assert asked == [16, 3, 0]
    assert contexts.n_passes(None, adapted(torch.optim.SGD)) == 0
    monkeypatch.setattr(contexts, "LONG", 10)  # 4 items in 4 steps: the updates of 10 trainings
    assert contexts.n_passes(None, run) == 1
    monkeypatch.setattr(contexts, "TOO_LONG", 10)
    assert contexts.n_passes(None, run) == 0
