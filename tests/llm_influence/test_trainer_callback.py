"""Rows collected from a real Trainer's passes, against autograd one example at a time."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, __version__

from influence.errors import InputError, NotFittedError, NotYetSupportedError
from llm_influence.projection import Kronecker
from llm_influence.tracin import TracIn
from llm_influence.trainer_callback import CollectRows
from tests.llm_influence.models import bert, gpt2, labelled, texts
from tests.reference import autograd

pytestmark = pytest.mark.usefixtures("new_accelerator")
IS_NEW = int(__version__.partition(".")[0]) >= 5
GROUPED = {"train_sampling_strategy": "group_by_length"} if IS_NEW else {"group_by_length": True}


def padded(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch as a collator of the user's makes it."""
    longest = max(len(example["input_ids"]) for example in examples)

    def column(name: str, fill: int) -> torch.Tensor:
        rows = [list(e[name]) + [fill] * (longest - len(e[name])) for e in examples]
        return torch.tensor(rows)

    masks = [[1] * len(e["input_ids"]) for e in examples]
    mask = [row + [0] * (longest - len(row)) for row in masks]
    batch = {"input_ids": column("input_ids", 0), "attention_mask": torch.tensor(mask)}
    if isinstance(examples[0]["labels"], int):
        return {**batch, "labels": torch.tensor([e["labels"] for e in examples])}
    return {**batch, "labels": column("labels", -100)}


class Weights(TrainerCallback):
    """The weights before every step."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.states.append(copy.deepcopy(given["model"].state_dict()))
        self.rates.append(given["optimizer"].param_groups[0]["lr"])


def plain(dropout: float = 0.0) -> Any:
    return gpt2(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, n_embd=8)


def trainer_of(
    model: torch.nn.Module, examples: Any, folder: Path, **options: Any
) -> tuple[Trainer, Weights]:
    settings = {
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "gradient_accumulation_steps": 2, "use_cpu": True, "report_to": "none", "seed": 0,
        "disable_tqdm": True, "save_strategy": "no", **options,
    }  # fmt: skip
    seen = Weights()
    trainer = Trainer(
        model,
        TrainingArguments(str(folder), **settings),
        train_dataset=examples,
        eval_dataset=examples[:3],
        data_collator=padded,
        callbacks=[seen],
    )
    return trainer, seen


def assert_rows_are_autograds(
    collected: CollectRows, seen: Weights, model: torch.nn.Module, examples: Any
) -> None:
    """Every visit's row against the gradient of that example at the weights of the step."""
    whole = collected._row_map
    assert [visit.rate for visit in collected.visits] == seen.rates
    for visit, weights in zip(collected.visits, seen.states, strict=True):
        model.load_state_dict(weights)
        for i in visit.rows:
            row = collected.rows.take(visit.epoch, slice(i, i + 1))[0]
            expected = autograd.gradient(model, examples[i])
            for name, block in whole.run.coverage.blocks.items():
                own = row[whole.bound.segments[name].columns].reshape(block.shape)
                wanted = block.arranged(expected)
                gap = float((own - wanted).norm() / (1e-3 + wanted.norm()))
                assert gap < 1e-4, f"{name} of example {i}, epoch {visit.epoch}: {gap:.2g}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 1, "max_grad_norm": 0.01},
        {"eval_strategy": "steps", "eval_steps": 1},
        {"dataloader_num_workers": 1},
        {"gradient_checkpointing": True},
        GROUPED,
    ],
    ids=["accumulated", "plain", "evaluated", "worker", "checkpointed", "grouped"],
)
def test_rows_are_the_gradients_of_the_visits(tmp_path, options):
    model, examples = plain(), texts(11)
    trainer, seen = trainer_of(model, examples, tmp_path, **options)
    collected = CollectRows(None)
    collected.attach(trainer)
    trainer.train()
    assert trainer.train_dataset is examples and trainer.data_collator is padded
    for epoch in range(2):
        rows = [i for visit in collected.visits if visit.epoch == epoch for i in visit.rows]
        assert sorted(rows) == list(range(11))
    assert_rows_are_autograds(collected, seen, model, examples)


class StrictForCausalLM(GPT2LMHeadModel):
    """A model that is not told how many targets the accumulated batches have."""

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        use_cache: bool = False,
    ) -> Any:
        return super().forward(
            input_ids, attention_mask=attention_mask, labels=labels, use_cache=use_cache
        )


def with_lora() -> Any:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False
    )
    return get_peft_model(plain(), settings)


@pytest.mark.parametrize(
    "make", [with_lora, lambda: StrictForCausalLM(plain().config)], ids=["lora", "strict"]
)
def test_rows_of_other_language_models(tmp_path, make):
    torch.manual_seed(0)
    model, examples = make(), texts(10)
    trainer, seen = trainer_of(model, examples, tmp_path, num_train_epochs=1)
    collected = CollectRows(None)
    collected.attach(trainer)
    trainer.train()
    assert_rows_are_autograds(collected, seen, model, examples)


def test_columns_are_removed_as_the_trainer_does(tmp_path):
    from datasets import Dataset

    keys: list[set[str]] = []

    def noting(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        keys.extend(set(example) for example in examples)
        return padded(examples)

    model, examples = plain(), texts(6)
    rows = Dataset.from_list([{**example, "note": "a text"} for example in examples])
    for collects in (False, True):
        trainer, seen = trainer_of(model, rows, tmp_path, num_train_epochs=1)
        trainer.data_collator = noting
        collected = CollectRows(None)
        if collects:
            collected.attach(trainer)
            keys.clear()
        trainer.train()
        assert all(found == {"input_ids", "labels"} for found in keys)
    assert_rows_are_autograds(collected, seen, model, examples)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_rows_of_a_classifier(tmp_path, accumulated):
    model, examples = bert(), labelled(7)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer, seen = trainer_of(
        model, examples, tmp_path, gradient_accumulation_steps=accumulated, num_train_epochs=1
    )
    collected = CollectRows(None)
    collected.attach(trainer)
    trainer.train()
    assert_rows_are_autograds(collected, seen, model, examples)


def test_values_are_the_sum_over_visits(tmp_path):
    """Against the formula, by autograd alone."""
    model, examples, queries = plain(), texts(6), texts(3, seed=1)
    trainer, seen = trainer_of(
        model, examples, tmp_path, per_device_train_batch_size=2, lr_scheduler_type="linear"
    )
    ends: list[dict[str, torch.Tensor]] = []

    class Ends(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            ends.append(copy.deepcopy(given["model"].state_dict()))

    trainer.add_callback(Ends())
    collected = CollectRows(None)
    collected.attach(trainer)
    trainer.train()
    estimator = collected.estimator()
    values = estimator.explain(queries, progress=False).values
    expected = np.zeros((6, 3))
    for visit, weights, rate in zip(collected.visits, seen.states, seen.rates, strict=True):
        model.load_state_dict(ends[visit.epoch])
        of_queries = autograd.flat(model, queries)
        model.load_state_dict(weights)
        of_rows = autograd.flat(model, [examples[i] for i in visit.rows])
        expected[list(visit.rows)] += rate / len(visit.rows) * (of_rows @ of_queries.T).numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    model.load_state_dict(ends[-1])
    own = estimator.explain(examples, progress=False).values
    np.testing.assert_allclose(estimator.self_influence(progress=False), np.diag(own), rtol=1e-4)
    assert collected.run.checkpoints[0].rate == pytest.approx(sum(seen.rates[:2]) / 6)
    with pytest.raises(NotYetSupportedError, match="single"):
        estimator.tokens(queries[:1], [0])
    with pytest.raises(InputError, match="collected run"):
        estimator.fit(replace(collected.run))
    TracIn().fit(collected.run, progress=False)


def test_projected_rows_in_a_store_are_those_in_memory(tmp_path):
    """The projection of whole rows, whichever way they are kept."""
    found = []
    for store in (None, tmp_path / "rows"):
        trainer, _ = trainer_of(plain(), texts(7), tmp_path / "out")
        collected = CollectRows(Kronecker(4), store=store)
        collected.attach(trainer)
        trainer.train()
        found.append(collected.estimator("unit").explain(texts(2, seed=1), progress=False).values)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    trainer, _ = trainer_of(plain(), texts(7), tmp_path / "out")
    with pytest.raises(InputError, match="empty folder"):
        CollectRows(store=tmp_path / "rows").attach(trainer)


def test_training_itself_is_not_changed(tmp_path):
    """With dropout, whose random numbers must be the same."""
    states = []
    for collects in (False, True):
        model = plain(dropout=0.2)
        trainer, _ = trainer_of(model, texts(9), tmp_path)
        if collects:
            collected = CollectRows(Kronecker(4))
            collected.attach(trainer)
        trainer.train()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(torch.isfinite(part.take(0, slice(0, 9))).all() for part in collected.rows.parts)


def test_autocast_gives_nearly_the_same_rows(tmp_path):
    rows = []
    for bf16 in (False, True):
        trainer, _ = trainer_of(plain(), texts(8), tmp_path, bf16=bf16, num_train_epochs=1)
        collected = CollectRows(Kronecker(4))
        collected.attach(trainer)
        trainer.train()
        rows.append(collected.rows.take(0, slice(0, 8)))
    assert torch.cosine_similarity(rows[0], rows[1]).min() > 0.99


class OwnLoss(Trainer):
    def compute_loss(self, *args: Any, **named: Any) -> Any:
        return 2 * super().compute_loss(*args, **named)


def test_what_changes_the_gradients_is_refused(tmp_path):
    for name, value in {"label_smoothing_factor": 0.1, "auto_find_batch_size": True}.items():
        trainer, _ = trainer_of(plain(), texts(4), tmp_path, **{name: value})
        with pytest.raises(NotYetSupportedError, match=name):
            CollectRows().attach(trainer)
    trainer, _ = trainer_of(plain(), texts(4), tmp_path)
    trainer.args.fp16 = True
    with pytest.raises(NotYetSupportedError, match="fp16"):
        CollectRows().attach(trainer)
    trainer.args.fp16, trainer.args._n_gpu = False, 2
    with pytest.raises(NotYetSupportedError, match="DataParallel"):
        CollectRows().attach(trainer)
    rows: Any = texts(4)
    own = OwnLoss(plain(), trainer.args.__class__(str(tmp_path), use_cpu=True), padded, rows)
    with pytest.raises(NotYetSupportedError, match="compute_loss of OwnLoss"):
        CollectRows().attach(own)


class PenalisedForCausalLM(GPT2LMHeadModel):
    """A model whose loss is not what its logits and labels say."""

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any = None, **named: Any) -> Any:
        out: Any = super().forward(input_ids, attention_mask=attention_mask, labels=labels, **named)
        if out.loss is not None:
            out.loss = out.loss + out.logits.exp().mean()
        return out


def test_another_loss_of_the_model_is_found_out(tmp_path):
    model = PenalisedForCausalLM(plain().config)
    trainer, _ = trainer_of(model, texts(8), tmp_path)
    collected = CollectRows()
    collected.attach(trainer)
    with pytest.raises(NotYetSupportedError, match="another term"):
        trainer.train()
    collected.detach()
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(NotFittedError):
        collected.estimator()
    with pytest.raises(InputError, match="one CollectRows for each"):
        collected.attach(trainer)
