"""Recorded trainings of small language models: what estimators of orders and replays are judged by.

    problem = batches(ORDERS["carried"], seed=10)
    problem.run, problem.queries            # for retrainer(run, queries)

`transformers`' GPT-2 of characters on Tiny Shakespeare (the folder INFLUENCE_DATA; where that is
unset, made-up sentences): untied head, no dropout, token embeddings drawn from N(0, 1), which is
torch's default. Batches are heterogeneous: each is drawn from a part of the text of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.llm_problems import LENGTH, corpus, example_losses
from llm_influence import OptimizerRun, record

BATCH = 8  # sequences of a step
HELD = 48  # sequences of all queries of an order
QUERIES = 4  # batches of them
SINGLES = 16  # queries of one sequence, asked of a replay
WINDOW = 0.005  # share of the text that a batch is drawn from
# Parts of the text: for the steps before the recorded run, its batches, and the queries.
WARM, TRAIN, OTHER = (0.0, 0.36), (0.36, 0.81), (0.81, 1.0)


@dataclass(frozen=True)
class Setting:
    """A training's recipe.

    Attributes:
        width: Size of the hidden state; two heads.
        n_layers: Number of blocks.
        n_batches: Steps of an epoch.
        n_epochs: Passes over the batches.
        rate: Learning rate of Adam: its peak, with a schedule.
        schedule: After a rise over a tenth of the steps constant again ("constant" does not rise),
            falling by half a cosine, or linearly to a tenth.
        beta2: Of Adam.
        n_warm: Steps on other text before the run, at the same rate.
        carried: The run begins with Adam's state of these steps; else with none.
        alike: All batches are drawn from all of the text.
        own_start: transformers' own initial weights: tied, of standard deviation .02.
    """

    width: int = 32
    n_layers: int = 2
    n_batches: int = 16
    n_epochs: int = 1
    rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    beta2: float = 0.999
    n_warm: int = 0
    carried: bool = True
    alike: bool = False
    own_start: bool = False

    def share_of_rate(self, step: int) -> float:
        """What multiplies the rate at a step of the run."""
        if self.schedule == "constant":
            return 1.0
        n = self.n_batches * self.n_epochs
        rising = math.ceil(n / 10)
        rise = min(1.0, (step + 1) / rising)
        if self.schedule == "cosine":
            fallen = max(0, step + 1 - rising) / (n + 1 - rising)
            return rise * (1 + math.cos(math.pi * fallen)) / 2
        return rise * (1 - 0.9 * step / n)


# One factor at a time.
ORDERS: dict[str, Setting] = {
    "base": Setting(),
    "carried": Setting(n_warm=300),
    "wide": Setting(width=64),
    "wide-carried": Setting(width=64, n_warm=300),
    "t32": Setting(n_batches=32, rate=5e-4, n_warm=300),
    "t64": Setting(n_batches=64, rate=5e-4, n_warm=300),
    "epochs-3": Setting(n_epochs=3),
    "rate-3e-4": Setting(rate=3e-4),
    "rate-3e-3": Setting(rate=3e-3, schedule="cosine"),
    "iid": Setting(alike=True),
    "own-start": Setting(own_start=True),
    "1m-carried": Setting(width=128, n_layers=5, n_warm=300),
}


def _replayed(width: int, rate: float, n_epochs: int = 2) -> Setting:
    return Setting(
        width=width, rate=rate, n_epochs=n_epochs, schedule="linear", beta2=0.99, n_warm=300,
        carried=False,
    )  # fmt: skip


REPLAYS: dict[str, Setting] = {
    "lds-3e-3": _replayed(32, 3e-3),
    "lds-1e-3": _replayed(32, 1e-3),
    "lds-wide-3e-3": _replayed(64, 3e-3),
    "lds-wide-1e-3": _replayed(64, 1e-3),
    "loo-3e-3": _replayed(32, 3e-3, n_epochs=1),
    "loo-1e-3": _replayed(32, 1e-3, n_epochs=1),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """A recorded training and what it is asked about.

    Attributes:
        run: Of batches; of rows of `examples` where there are some.
        queries: Batches.
        examples: The training examples of a replay.
    """

    run: OptimizerRun
    queries: list[Any]
    examples: list[dict[str, Tensor]]


def batches(setting: Setting, seed: int) -> Problem:
    """A training on distinct batches, the same order in each epoch; queries of 12 sequences."""
    begun = _Begun(setting, seed)
    taken = [begun.drawn(*part, BATCH) for part in begun.parts()]
    queries = begun.drawn(*OTHER, HELD).split(HELD // QUERIES)
    recording = record(begun.model, begun.optimizer, example_losses, begun.scheduler())
    for batch in taken * setting.n_epochs:
        recording.step(batch)
    return Problem(recording.run, list(queries), [])


def samples(setting: Setting, seed: int) -> Problem:
    """A training on examples that each epoch puts into other batches; queries of one sequence."""
    begun = _Begun(setting, seed)
    drawn = [begun.drawn(*part, BATCH) for part in begun.parts()]
    examples = [{"input_ids": row, "labels": row.clone()} for row in torch.cat(drawn)]
    queries = begun.drawn(*OTHER, SINGLES).split(1)
    recording = record(begun.model, begun.optimizer, scheduler=begun.scheduler(), dataset=examples)
    for _ in range(setting.n_epochs):
        for rows in begun.rng.permutation(len(examples)).reshape(-1, BATCH):
            recording.step(rows)
    asked = [{"input_ids": ids, "labels": ids.clone()} for ids in queries]
    return Problem(recording.run, asked, examples)


class _Begun:
    """Model and optimizer before the first recorded step."""

    def __init__(self, setting: Setting, seed: int) -> None:
        characters, self.ids = corpus()
        self.setting, self.rng = setting, np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = untrained(setting, len(characters))
        self.optimizer = self._adam()
        for _ in range(setting.n_warm):
            self.optimizer.zero_grad()
            example_losses(self.model, self.drawn(*WARM, BATCH)).mean().backward()
            self.optimizer.step()
        if not setting.carried:
            self.optimizer = self._adam()

    def _adam(self) -> torch.optim.Optimizer:
        setting = self.setting
        return torch.optim.Adam(self.model.parameters(), setting.rate, (0.9, setting.beta2))

    def scheduler(self) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.setting.share_of_rate)

    def parts(self) -> list[tuple[float, float]]:
        """The part of the text that each batch is drawn from."""
        low, high = TRAIN
        firsts = low + (high - low) * np.arange(self.setting.n_batches) / self.setting.n_batches
        return [TRAIN if self.setting.alike else (float(x), float(x) + WINDOW) for x in firsts]

    def drawn(self, low: float, high: float, n: int) -> Tensor:
        """Random sequences of a part of the text, shape (n, LENGTH)."""
        first, end = (int(share * len(self.ids)) for share in (low, high))
        starts = self.rng.integers(first, end - LENGTH, n)
        return torch.stack([self.ids[start : start + LENGTH] for start in starts])


def untrained(setting: Setting, n_characters: int) -> nn.Module:
    """Eager attention: it can be differentiated twice."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: Mapping[str, Any] = {
        "vocab_size": n_characters, "n_embd": setting.width, "n_layer": setting.n_layers,
        "n_head": 2, "n_positions": LENGTH, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0, "attn_implementation": "eager", "use_cache": False,
        "tie_word_embeddings": setting.own_start, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    model = GPT2LMHeadModel(GPT2Config(**sizes))
    if not setting.own_start:
        with torch.no_grad():
            model.transformer.wte.weight.normal_(0, 1)
    return model
