"""Every law over the estimators of recorded trainings."""

from typing import Any

import numpy as np
import pytest
import torch

from llm_influence import record
from llm_influence.order.replay import Replay
from tests.laws.cases import obeyed, torch_threads
from tests.llm_influence.models import gpt2, texts

STEPS = [[4, 0, 1], [2, 6, 3], [5, 7, 4], [1, 2, 6], [0, 3, 7]]


class RecordedProblem:
    """A GPT-2 in float64 whose training in batches of three of eight samples was recorded.

    Equal samples are in the same batches: there is nothing else that their influence is equal by.
    """

    duplicates = (2, 6)
    zero_weight = None
    precision = 1e-9
    planted = (4, 1)

    def __init__(self):
        examples, queries = texts(8, seed=0), texts(4, seed=1)
        examples[6] = examples[2]
        examples[4] = queries[1]
        self.examples = examples
        self.train, self.queries = (
            ([as_batch(one) for one in examples],),
            ([as_batch(one) for one in queries],),
        )

    def run(self, order=None):
        rows = np.arange(len(self.examples)) if order is None else order
        model = gpt2(n_embd=8, n_layer=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).double()
        adam = torch.optim.Adam(model.parameters(), 1e-2)
        recording = record(model, adam, dataset=[self.examples[i] for i in rows])
        place = np.argsort(rows)
        for step in STEPS:
            recording.step(place[step])
        return recording.run

    def part(self, block):
        return (self.queries[0][block],)

    def threads(self, n):
        return torch_threads(n)


def as_batch(example):
    return {name: torch.tensor([values]) for name, values in example.items()}


ESTIMATORS: dict[str, tuple[Any, set[str]]] = {
    "Replay": (lambda: Replay("sample", calibrate=0), set()),
    "Replay halves": (lambda: Replay("sample", path="halves", calibrate=0), set()),
    "Replay both": (lambda: Replay("sample", path="both", calibrate=0), set()),
    # Which rows are in a half goes by their position.
    "Replay averaged": (lambda: Replay("sample", average=2, calibrate=0), {"permutation"}),
}


@pytest.fixture(scope="module")
def problem():
    return RecordedProblem()


@pytest.mark.parametrize(("name", "law"), obeyed(ESTIMATORS))
def test_laws_hold_for_estimators_of_recorded_trainings(name, law, problem):
    law(ESTIMATORS[name][0], problem)
