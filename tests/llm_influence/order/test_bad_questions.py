"""Changes and queries that a recorded run refuses."""

import re
from typing import Any

import pytest
import torch

from influence.change import Relabelled, Reordered, Without
from influence.errors import InputError, UnsupportedChangeError
from tests.llm_influence.models import texts
from tests.llm_influence.order.recorded import batches, recorded


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([0, 1, 2], "got 3 entries"),
        ([0, 1, 2, 2], "2 of them 2"),
        ([0, 1, 2, 4], "one of them 4"),
        ([0, 1, 2, 3, 0], "got 5 entries"),
    ],
)
def test_orders_must_be_permutations(order: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recorded().train(Reordered(order))


def test_changes_that_are_not_answered() -> None:
    run = recorded()
    with pytest.raises(UnsupportedChangeError, match=r"got Relabelled; .* record a training"):
        run.train(Relabelled([0], [1]))
    with pytest.raises(InputError, match="row 4"):
        run.train(Without([4]))
    wrong: Any = "epoch"
    with pytest.raises(InputError, match="'epoch'"):
        run.by(wrong)


class Quiet:
    """No sequence."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least one"),
        (batches(1)[0], "one batch alone is"),
        (batches(1)[0]["input_ids"], "a Tensor"),
        ("text", "a str"),
        (iter(batches(1)), "list_iterator"),
        (Quiet(), "a Quiet"),
        (texts(2), "query 0, a dict"),
        ([3], "query 0, a int"),
        ([{"input_ids": torch.zeros(1, 3).long()}], "labels"),
        (["a text"], "query 0, a str"),
        ([{"input_ids": torch.full((1, 3), 999), "labels": torch.ones(1, 3).long()}], "query 0"),
        ([{k: v[:, :1] for k, v in batches(1)[0].items()}], "have targets"),
    ],
    ids=[
        "none", "batch", "tensor", "text", "iterator", "object", "unencoded", "number",
        "no labels", "texts", "unknown token", "no targets",
    ],
)  # fmt: skip
def test_queries_that_are_none(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recorded(n_batches=1).queries(given)


def test_a_run_is_told_in_a_line() -> None:
    told = "<OptimizerRun of Adam: .* parameters, 8 steps over 4 batches; a training row is a "
    run = recorded(epochs=2)
    assert re.fullmatch(told + "batch>", repr(run))
    assert re.fullmatch(told + "sample>", repr(run.by("sample")))


def test_queries_come_one_argument_at_a_time() -> None:
    run = recorded(n_batches=1)
    with pytest.raises(InputError, match="2 arguments"):
        run.queries(batches(1), batches(1))
