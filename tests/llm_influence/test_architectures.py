"""Many kinds of models: what is covered, what is named, and rows against autograd."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from influence.errors import InputError, UnsupportedModelError
from llm_influence.projection import Identity
from llm_influence.rows import RowMap
from llm_influence.run import CheckpointRun, trace
from tests.llm_influence.architectures import (
    SIZES,
    Classifier,
    InPlace,
    Normalised,
    Routed,
    Skipping,
    Table,
    Tied,
    Twice,
    made,
    t5,
    transformer,
)
from tests.llm_influence.models import VOCABULARY, gpt2, labelled, texts
from tests.reference import autograd

# Routed experts, by their names in transformers 5 and 4: no layer kind, or some tokens only.
UNCOVERED = {"Mixtral": ("mlp", "block_sparse_moe")}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_rows(run: CheckpointRun, of_one: Callable[[int], dict[str, Tensor]]) -> None:
    """Rows without a projection against autograd's gradient of one example, block by block."""
    whole = RowMap(run, Identity())
    rows = whole.rows(0, run.examples)
    for i in range(run.n_train):
        expected = of_one(i)
        for name, block in run.coverage.blocks.items():
            own = rows[i, whole.bound.segments[name].columns].reshape(block.shape)
            wanted = block.arranged(expected)
            gap = float((own - wanted).abs().max() / (1e-3 + wanted.abs().max()))
            assert gap < 1e-6, f"{name} of example {i} is off by {gap:.2g}"


def hand_loss(model: nn.Module, batch: Any) -> Tensor:
    ids, labels = batch
    return F.cross_entropy(model(ids), labels, reduction="none")


def items(n: int = 4) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (n, 6), generator=drawn)
    return [(row, torch.tensor(i % 3)) for i, row in enumerate(ids)]


def of_item(model: nn.Module, item: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Gradient of one example's loss by autograd alone."""
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    loss = F.cross_entropy(model(item[0][None]), item[1][None])
    found = torch.autograd.grad(
        loss, list(named.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize("name", SIZES)
def test_architectures_of_transformers(name):
    model = made(name)
    classes = SIZES[name][0] == "ForSequenceClassification"
    examples = labelled(4) if classes else texts(4)
    run = trace(model, examples, batch_size=3)
    left = UNCOVERED.get(name)
    if left is None:
        assert run.coverage.share == 1.0, run.coverage.uncovered
    else:
        assert run.coverage.uncovered
        assert all(any(name in one for name in left) for one in run.coverage.uncovered)
    assert_rows(run, lambda i: autograd.gradient(model, examples[i]))


@pytest.mark.parametrize(
    ("make", "uncovered"),
    [
        (Table, {"positions"}),
        (Twice, set()),
        (Tied, set()),
        (InPlace, set()),
        (
            transformer,
            {f"self_attn.{k}" for k in (
                "in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"
            )},
        ),
        (t5, {"relative_attention_bias.weight"}),
        (Routed, {"experts.0.weight", "experts.0.bias", "experts.1.weight", "experts.1.bias"}),
        (lambda: Normalised(running=True), {"norm.weight", "norm.bias"}),
    ],
    ids=["table", "twice", "tied", "in place", "attention", "t5", "routed", "batch norm"],
)  # fmt: skip
def test_networks_of_all_sorts(make, uncovered):
    torch.manual_seed(0)
    model = Classifier(make()).double()
    examples = items()
    run = trace(model, examples, hand_loss, batch_size=3)
    named = run.coverage.uncovered
    assert len(named) == len(uncovered), named
    assert all(any(full.endswith(end) for full in named) for end in uncovered), named
    assert_rows(run, lambda i: of_item(model, examples[i]))


@pytest.mark.parametrize(
    "trained",
    [
        lambda name: name.endswith("bias"),
        lambda name: name.endswith("weight"),
        lambda name: ".h.1." in name,
        lambda name: "ln_" in name and name.endswith("bias"),
    ],
    ids=["only biases", "only weights", "one block", "biases of norms"],
)
def test_what_is_frozen_is_left_out(trained):
    model = gpt2(tie_word_embeddings=False).double()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained(name))
    examples = texts(4)
    run = trace(model, examples, batch_size=3)
    assert run.coverage.share == 1.0, run.coverage.uncovered
    assert_rows(run, lambda i: autograd.gradient(model, examples[i]))


@pytest.mark.parametrize(
    ("make", "loss", "says"),
    [
        (lambda: Normalised(running=False), hand_loss, "batch normalisation"),
        (Twice, lambda model, batch: hand_loss(model, batch).mean(), "one loss for each example"),
        (Twice, lambda m, b: hand_loss(m, b).mean().expand(len(b[1])), "mean over the batch"),
        (Twice, lambda m, b: F.dropout(hand_loss(m, b), 0.5), "dropout"),
    ],
    ids=["batch norm", "mean", "expanded mean", "dropout"],
)
def test_losses_that_are_not_of_one_example_are_refused(make, loss, says):
    torch.manual_seed(0)
    with pytest.raises(InputError, match=says):
        trace(Classifier(make()).double(), items(), loss)


def test_tokens_that_are_routed_later_on_are_refused():
    """The two examples that trace looks at do not show it."""
    examples = [(ids.clamp_min(1), label) for ids, label in items(4)]
    examples[3][0][2] = 0
    run = trace(Classifier(Skipping()).double(), examples, hand_loss, batch_size=2)
    with pytest.raises(UnsupportedModelError, match=r"encoder\.layer .* part of the tokens"):
        RowMap(run, Identity()).rows(0, run.examples)
