"""Batches of other types than dicts, lists and tuples keep them."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from transformers import BatchEncoding

from influence.change import Reordered, Without
from influence.errors import InputError
from llm_influence import OptimizerRun, record
from llm_influence.coverage import moved
from llm_influence.nested import mapping_like, sequence_like
from llm_influence.order.batches import split


class Point(NamedTuple):
    x: Tensor
    y: Tensor


def points(n: int) -> list[Point]:
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 3, generator=drawn), torch.randn(n, 1, generator=drawn)
    return [Point(*pair) for pair in zip(x, y, strict=True)]


def encodings(n: int) -> list[BatchEncoding]:
    return [BatchEncoding(point._asdict()) for point in points(n)]


def by_attribute(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch.x) - batch.y).square().mean(dim=1)


def by_position(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch.values() if isinstance(batch, Mapping) else batch
    return (model(x) - y).square().mean(dim=1)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def recorded(given: list[Any], loss: Any) -> OptimizerRun:
    model = linear()
    recording = record(model, torch.optim.Adam(model.parameters(), 1e-2), loss)
    for batch in given:
        recording.step(batch)
    return recording.run


def trained(order: list[int]) -> Tensor:
    """The weights that plain torch ends in, each place taking so numbered a point."""
    model, taken = linear(), points(6)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for first in range(0, len(order), 2):
        one, other = (taken[i] for i in order[first : first + 2])
        x, y = torch.stack([one.x, other.x]), torch.stack([one.y, other.y])
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("make", [points, encodings])
def test_losses_that_read_attributes_are_recorded_and_put_into_other_orders(make: Any) -> None:
    given = list(DataLoader(make(6), batch_size=2))
    assert isinstance(given[0], Point | BatchEncoding)
    run = recorded(given, by_attribute)
    assert torch.equal(run.final, trained([0, 1, 2, 3, 4, 5]))
    torch.testing.assert_close(run.train(Reordered([2, 0, 1])), trained([4, 5, 0, 1, 2, 3]))
    other = [3, 0, 5, 2, 1, 4]
    torch.testing.assert_close(run.by("sample").train(Reordered(other)), trained(other))
    assert not torch.equal(run.train(Without([0])), run.final)
    queries = run.queries(given[:1])
    model = linear()
    run.flat.write(model, run.final)
    with torch.no_grad():
        assert run.losses(queries) == pytest.approx(float(by_attribute(model, given[0]).mean()))


@pytest.mark.parametrize("make", [points, encodings])
def test_what_is_saved_comes_back_plain(make: Any, tmp_path: Path) -> None:
    run = recorded(list(DataLoader(make(4), batch_size=2)), by_attribute)
    run.save(tmp_path / "run")
    loaded = OptimizerRun.load(tmp_path / "run", linear(), by_position)
    assert type(loaded.batch(0)) in (tuple, dict)
    assert torch.equal(loaded.train(), run.final)
    with pytest.raises(InputError, match=r"has no attribute 'x'.*read by key or position"):
        OptimizerRun.load(tmp_path / "run", linear(), by_attribute)


@pytest.mark.parametrize(
    "batch",
    [
        default_collate(points(2)), default_collate(encodings(2)), torch.ones(2, 1),
        [torch.ones(2), (torch.zeros(2),)], {"a": default_collate(points(2))},
    ],
    ids=lambda batch: type(batch).__name__,
)  # fmt: skip
def test_examples_of_a_batch_have_its_type_and_collate_to_it(batch: Any) -> None:
    pieces = split(batch, 2)
    assert {type(piece) for piece in pieces} == {type(batch)}
    again = moved(default_collate(pieces), torch.device("cpu"))
    assert type(again) is type(batch)
    torch.testing.assert_close(again, batch)


def test_moving_makes_new_containers() -> None:
    for batch in (default_collate(points(2)), default_collate(encodings(2))):
        meta = moved(batch, torch.device("meta"))
        assert meta.x.is_meta and not batch.x.is_meta


class Reading(dict[str, Any]):
    """Items as attributes that live beside them."""

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.__dict__.update(parts)


def test_types_that_may_hold_tensors_elsewhere_become_plain() -> None:
    """Copied, they would have new items and the old attributes."""
    assert type(mapping_like(Reading({"a": 1}), {"a": 2})) is dict
    assert type(mapping_like(OrderedDict(a=1), {"a": 2})) is dict


def test_sequences() -> None:
    assert sequence_like([1, 2], iter([3, 4])) == [3, 4]
    assert sequence_like(range(2), iter([3, 4])) == (3, 4)
