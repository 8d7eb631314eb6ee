"""A small language model on which the laws are checked."""

import copy

import torch

from llm_influence.checkpoints import Checkpoint
from llm_influence.run import trace
from tests.laws.cases import torch_threads
from tests.llm_influence.models import gpt2, texts
from tests.reference import autograd


class NetworkProblem:
    """A GPT-2 in float64 trained for a few steps, with two checkpoints and Adam's state."""

    duplicates = (2, 6)
    zero_weight = None
    precision = 1e-9
    planted = (4, 1)

    def __init__(self):
        examples, queries = texts(12, seed=0), texts(5, seed=1)
        examples[6] = examples[2]
        examples[4] = queries[1]
        self.examples = examples
        self.train, self.queries = (examples,), (queries,)
        self.model = gpt2(n_embd=8, n_layer=1).double()
        optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.checkpoints = []
        self.model.eval()
        for epoch in range(2):
            for example in examples[:4]:
                optimizer.zero_grad()
                autograd.loss_of(self.model, example).backward()
                optimizer.step()
            weights = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            adam = copy.deepcopy(optimizer.state_dict())
            self.checkpoints.append(Checkpoint(weights, rate=0.01 * (epoch + 1), adam=adam))

    def run(self, order=None):
        rows = range(len(self.examples)) if order is None else order
        given = [self.examples[i] for i in rows]
        return trace(self.model, given, checkpoints=self.checkpoints, batch_size=4)

    def part(self, block):
        return (self.queries[0][block],)

    def threads(self, n):
        return torch_threads(n)
