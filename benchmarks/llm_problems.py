"""Language models so small that they are retrained by the hundred: what estimators are judged by.

    problem = load("gpt2")
    run = trace(problem.model, problem.train, ...)
    problem.retrain(Without([3, 5]))        # real effects on problem.queries, shape (n_queries,)

Real `transformers` models of characters: warmed up on one part of a text, then trained for a few
epochs of Adam on sequences of another part. Half of the queries are training sequences with their
first characters moved to the end, the others come from a third part. Retraining takes the same
steps from the same warmed-up weights, with a weight on every example. The text is Tiny Shakespeare
of the folder INFLUENCE_DATA, and where that is unset, sentences of `datasets/facts.py`.
"""

import copy
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from influence.change import Change, Without, leave_one_out, random_subsets, removed_weight
from influence.run import fingerprint

Floats = NDArray[np.float64]
Weights = dict[str, Tensor]

RECIPE = "llm problem 1"  # of the code below: another number, other cached retrainings
LENGTH = 33  # characters of a sequence
MOVED = 10  # characters moved to the end in a query made of a training sequence
SUBSET_SEED = 1
BETAS, EPS = (0.9, 0.99), 1e-8
WARM_RATE, WARM_BATCH = 2e-3, 16
# Parts of the text: for the warm-up, the training sequences, and the queries of neither.
WARM, TRAIN, OTHER = (0.0, 0.45), (0.54, 0.9), (0.9, 1.0)


@dataclass(frozen=True)
class Setting:
    """A problem's recipe, and the campaign of retrainings it is judged by.

    Attributes:
        family: Architecture, of `transformers`.
        width: Size of the hidden state; two heads.
        n_layers: Number of blocks.
        n_train: Number of training sequences.
        n_queries: Number of queries.
        batch_size: Sequences of a step.
        n_epochs: Passes over the training sequences, each in an order of its own.
        peak: Highest learning rate: reached after a tenth of the steps, then falling to a tenth.
        n_warm: Steps of the warm-up.
        seed: Seed of weights, sequences and order.
        n_subsets: Half subsets to retrain; 0 leaves out every sequence alone instead.
    """

    family: Literal["gpt2", "llama"] = "gpt2"
    width: int = 32
    n_layers: int = 2
    n_train: int = 128
    n_queries: int = 24
    batch_size: int = 8
    n_epochs: int = 2
    peak: float = 3e-3
    n_warm: int = 200
    seed: int = 0
    n_subsets: int = 100

    def changes(self) -> list[Without]:
        """What is retrained: the changes of the campaign."""
        if not self.n_subsets:
            return leave_one_out(self.n_train)
        return random_subsets(self.n_train, 0.5, self.n_subsets, SUBSET_SEED)


SETTINGS: dict[str, Setting] = {
    "gpt2": Setting(),
    "gpt2-seed-1": Setting(seed=1),
    "gpt2-low-rate": Setting(peak=1e-3),
    "gpt2-cold": Setting(n_warm=0),
    "gpt2-wide": Setting(width=64, n_train=256, n_queries=12),
    "llama": Setting(family="llama"),
    "gpt2-loo": Setting(n_epochs=1, n_subsets=0),
    "gpt2-1m": Setting(width=128, n_layers=5, n_train=256, peak=1e-3, n_subsets=24),
}


@dataclass(frozen=True, eq=False)
class Moment:
    """A checkpoint of training.

    Attributes:
        step: Number of steps taken before it.
        rate: Learning rate of the next step; of the last step at the end.
        weights: The model's state dict.
        adam: The optimizer's state dict.
    """

    step: int
    rate: float
    weights: Weights
    adam: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Recipe:
    """A training that can be repeated with a weight on every example.

    Attributes:
        setting: Numbers of the recipe.
        start: The warmed-up model that every training begins with.
        train: Token ids, shape (n_train, LENGTH).
        queries: Token ids, shape (n_queries, LENGTH).
        order: Training sequences of every step, each shape (batch_size,).
    """

    setting: Setting
    start: nn.Module
    train: Tensor
    queries: Tensor
    order: tuple[Tensor, ...]

    def rate(self, step: int) -> float:
        n = len(self.order)
        return self.setting.peak * min(1.0, (step + 1) / max(1, n // 10)) * (1 - 0.9 * step / n)

    def moments(self, weights: Tensor, at: set[int]) -> Iterator[tuple[nn.Module, Moment | None]]:
        """Trains; yields the model after each step, with a checkpoint where `at` asks for one.

        A step's loss is the sum of weight times loss over its batch, over the size of the batch.

        Args:
            weights: Of every example, shape (n_train,).
            at: Numbers of steps taken.
        """
        model = copy.deepcopy(self.start)
        optimizer = torch.optim.Adam(model.parameters(), betas=BETAS, eps=EPS, foreach=True)
        for step, batch in enumerate(self.order):
            optimizer.param_groups[0]["lr"] = self.rate(step)
            losses = example_losses(model, self.train[batch])
            _step(optimizer, (weights[batch] * losses).sum() / len(batch))
            taken = step + 1
            if taken not in at:
                yield model, None
                continue
            state = copy.deepcopy(optimizer.state_dict())
            rate = self.rate(min(taken, len(self.order) - 1))
            yield model, Moment(taken, rate, _copied(model.state_dict()), state)

    def losses(self, weights: ArrayLike) -> Floats:
        """Loss of each query after training with these weights, shape (n_queries,)."""
        given = torch.as_tensor(np.asarray(weights, dtype=np.float32))
        with one_thread():
            *_, (model, _) = self.moments(given, set())
            return query_losses(model, self.queries)


@dataclass(frozen=True, eq=False)
class Retrain:
    """From a change of weights to its real effects, as `influence.Campaign` takes it.

    Attributes:
        recipe: The training.
        base: Loss of each query after training with all weights 1, shape (n_queries,).
    """

    recipe: Recipe
    base: Floats
    prefers: Literal["processes"] = "processes"

    def __call__(self, change: Change) -> Floats:
        """Effects, shape (n_queries,)."""
        return self.recipe.losses(1 - removed_weight(change, self.n_train)) - self.base

    @property
    def n_train(self) -> int:
        return len(self.recipe.train)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of setting, sequences, order and versions.

        Not of weights and losses: their last digits differ between processors, and a cache is to
        serve them all. Only a training from a cold start magnifies those digits until they show.
        """
        recipe = self.recipe
        arrays = [ids.numpy() for ids in (recipe.train, recipe.queries, torch.cat(recipe.order))]
        versions = [f"{name} {version(name)}" for name in ("torch", "transformers")]
        setting = repr(replace(recipe.setting, n_subsets=0))  # the changes do not matter
        return fingerprint(RECIPE, setting, *versions, *arrays)


@dataclass(frozen=True, eq=False)
class Problem:
    """A trained language model, what it was trained on and asked, and its retraining.

    Attributes:
        name: Name of the setting.
        setting: Numbers of the recipe.
        model: The trained model, float32, in evaluation mode.
        train: Training examples in order: input_ids and labels, each shape (LENGTH,); the labels
            are the ids, and the model shifts them.
        queries: Queries, likewise.
        start: State dict before the first step.
        checkpoints: After a quarter, half, three quarters and all of the steps.
        retrain: From a change to effects; see `Retrain`.
        characters: The vocabulary, in the order of the ids.
    """

    name: str
    setting: Setting
    model: nn.Module
    train: list[dict[str, Tensor]]
    queries: list[dict[str, Tensor]]
    start: Weights
    checkpoints: list[Moment]
    retrain: Retrain
    characters: str

    @property
    def rates(self) -> list[float]:
        """Learning rate of each checkpoint."""
        return [moment.rate for moment in self.checkpoints]

    def losses(self, weights: ArrayLike) -> Floats:
        """Loss of each query after training with these weights, shape (n_queries,)."""
        return self.retrain.recipe.losses(weights)


def load(name: str) -> Problem:
    """The problem of a setting, trained: seconds."""
    return make(name, SETTINGS[name])


def make(name: str, setting: Setting) -> Problem:
    """Warms up, trains and records."""
    characters, ids = corpus()
    with one_thread():
        recipe = _recipe(setting, ids, len(characters))
        n_steps = len(recipe.order)
        at = {math.ceil(n_steps * quarter / 4) for quarter in (1, 2, 3, 4)}
        told = list(recipe.moments(torch.ones(setting.n_train), at))
        model = told[-1][0]
        base = query_losses(model, recipe.queries)
    return Problem(
        name=name,
        setting=setting,
        model=model.eval(),
        train=_examples(recipe.train),
        queries=_examples(recipe.queries),
        start=_copied(recipe.start.state_dict()),
        checkpoints=[moment for _, moment in told if moment is not None],
        retrain=Retrain(recipe, base),
        characters=characters,
    )


def example_losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean loss over each sequence's targets, shape (n_sequences,)."""
    logits = model(input_ids=ids).logits[:, :-1]
    return nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(
        dim=1
    )


def query_losses(model: nn.Module, ids: Tensor) -> Floats:
    with torch.no_grad():
        return example_losses(model, ids).double().numpy()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums are taken in one order, whatever the number of threads around."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def corpus() -> tuple[str, Tensor]:
    """The characters in sorted order, and the text as their numbers."""
    folder = os.environ.get("INFLUENCE_DATA")
    if folder:
        path = Path(folder) / "datasets" / "text" / "tinyshakespeare" / "input.txt"
        text = path.read_text(encoding="utf-8")
    else:
        sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
        from facts import made_up_facts

        facts = made_up_facts(60, seed=0, n_relations=8, n_distractors=500)
        text = "\n".join(facts.documents)
    characters = "".join(sorted(set(text)))
    number = {character: i for i, character in enumerate(characters)}
    return characters, torch.tensor([number[character] for character in text])


def _recipe(setting: Setting, ids: Tensor, n_characters: int) -> Recipe:
    rng = np.random.default_rng(setting.seed)
    start = _warmed(setting, ids, n_characters, rng)
    n_moved = setting.n_queries // 2
    train = _drawn(ids, TRAIN, setting.n_train, rng)
    moved = train[:n_moved].roll(-MOVED, dims=1)
    other = _drawn(ids, OTHER, setting.n_queries - n_moved, rng)
    order = [
        batch
        for _ in range(setting.n_epochs)
        for batch in torch.from_numpy(rng.permutation(setting.n_train)).split(setting.batch_size)
    ]
    return Recipe(setting, start, train, torch.cat([moved, other]), tuple(order))


def _warmed(
    setting: Setting, ids: Tensor, n_characters: int, rng: np.random.Generator
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        model = _untrained(setting, n_characters)
    optimizer = torch.optim.Adam(model.parameters(), WARM_RATE)
    for _ in range(setting.n_warm):
        _step(optimizer, example_losses(model, _drawn(ids, WARM, WARM_BATCH, rng)).mean())
    model.zero_grad()
    return model


def _untrained(setting: Setting, n_characters: int) -> nn.Module:
    """Eager attention: it can be differentiated twice."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    shared: Mapping[str, Any] = {
        "vocab_size": n_characters, "attn_implementation": "eager", "use_cache": False,
        "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    if setting.family == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=setting.width, intermediate_size=3 * setting.width,
                num_hidden_layers=setting.n_layers, num_attention_heads=2,
                num_key_value_heads=1, max_position_embeddings=LENGTH, **shared,
            )
        )  # fmt: skip
    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=setting.width, n_layer=setting.n_layers, n_head=2, n_positions=LENGTH,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **shared,
        )
    )  # fmt: skip


def _drawn(ids: Tensor, part: tuple[float, float], n: int, rng: np.random.Generator) -> Tensor:
    """Random sequences of a part of the text, shape (n, LENGTH)."""
    low, high = (int(share * len(ids)) for share in part)
    starts = rng.integers(low, high - LENGTH, n)
    return torch.stack([ids[start : start + LENGTH] for start in starts])


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _copied(weights: Mapping[str, Tensor]) -> Weights:
    return {name: weight.detach().clone() for name, weight in weights.items()}


def _examples(ids: Tensor) -> list[dict[str, Tensor]]:
    return [{"input_ids": row, "labels": row.clone()} for row in ids]
