"""Recording a Hugging Face Trainer: the run is what the Trainer did, bit for bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    __version__,
    default_data_collator,
)

from influence.change import Without
from influence.errors import (
    InfluenceError,
    InputError,
    NotFittedError,
    NotYetSupportedError,
    UnsupportedModelError,
)
from llm_influence import CollectRows, OptimizerRun
from llm_influence.examples import OtherExamples, TokenExamples
from llm_influence.losses import causal_lm, classification
from llm_influence.order.trainer import RecordTraining
from tests.llm_influence.models import bert, gpt2, labelled, llama, texts
from tests.llm_influence.order.recorded import plain_gpt2

pytestmark = pytest.mark.usefixtures("new_accelerator")
IS_NEW = int(__version__.partition(".")[0]) >= 5
NESTEROV = {"optim_args": "momentum=0.9,nesterov=True"} if IS_NEW else {}  # 4 ignores it for SGD


def right_padded(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A collator of the user's own."""
    longest = max(len(example["input_ids"]) for example in examples)

    def column(name: str, fill: int) -> Tensor:
        return torch.tensor([e[name] + [fill] * (longest - len(e[name])) for e in examples])

    ids, labels = column("input_ids", 0), column("labels", -100)
    return {"input_ids": ids, "labels": labels}


def same_length(n: int) -> list[dict[str, Any]]:
    return texts(n, shortest=7, longest=7)


def trainer_of(
    folder: Path,
    model: nn.Module | None = None,
    examples: Any = None,
    collator: Any = right_padded,
    callbacks: Any = None,
    own: Any = Trainer,
    loss: Any = None,
    **options: Any,
) -> Any:
    settings = {
        "num_train_epochs": 2, "per_device_train_batch_size": 3, "learning_rate": 1e-2,
        "gradient_accumulation_steps": 2, "use_cpu": True, "report_to": "none", "seed": 0,
        "disable_tqdm": True, "save_strategy": "no", "weight_decay": 0.1, "warmup_steps": 2,
        "lr_scheduler_type": "cosine", "max_grad_norm": 0.5, "logging_strategy": "no", **options,
    }  # fmt: skip
    return own(
        plain_gpt2() if model is None else model,
        TrainingArguments(str(folder), **settings),
        train_dataset=texts(12) if examples is None else examples,
        eval_dataset=texts(4, seed=3),
        data_collator=collator,
        callbacks=callbacks,
        compute_loss_func=loss,
    )


def trained(trainer: Any, **options: Any) -> OptimizerRun:
    recorder = RecordTraining(**options)
    recorder.attach(trainer)
    trainer.train()
    return recorder.run


def assert_is_the_trainers(run: OptimizerRun, trainer: Any) -> None:
    assert torch.equal(run.final, run.flat.read(trainer.model.cpu()))
    assert torch.equal(run.train(), run.final)
    assert not torch.equal(run.train(Without([0])), run.final)


def test_the_run_ends_in_the_trainers_weights_bit_for_bit(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, eval_strategy="epoch")
    run = trained(trainer)
    assert_is_the_trainers(run, trainer)
    assert run.n_steps == 4
    assert len(run.order) == 8
    assert len(set(run.order)) == 8, "each epoch is shuffled anew"
    assert run.recipe.optimizer == "AdamW"
    assert {group["weight_decay"] for group in run.recipe.groups} == {0.0, 0.1}
    rates = [step[0] for step in run.recipe.rates]
    assert rates[0] == 0 and rates[2] == 1e-2 > rates[3]
    first, second = (run.by("sample").places.recorded[at] for at in (slice(12), slice(12, 24)))
    assert sorted(first) == sorted(second) == list(range(12))


def test_the_trainer_is_given_back_as_it_was(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, eval_strategy="epoch")
    before = (trainer.train_dataset, trainer.data_collator, trainer.compute_loss)
    expected = trainer.evaluate()["eval_loss"]
    trained(trainer)
    after = (trainer.train_dataset, trainer.data_collator, trainer.compute_loss)
    assert before == after
    assert trainer.compute_loss_func is None
    assert trainer.args.remove_unused_columns
    log = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert log[-1] == pytest.approx(trainer.evaluate()["eval_loss"])
    assert log[-1] != pytest.approx(expected)
    again = trained(trainer)
    assert_is_the_trainers(again, trainer)


def test_the_steps_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    """The Trainer's last step by autograd: mean over batches of the mean over examples."""

    class Weights(TrainerCallback):
        def __init__(self) -> None:
            self.before: list[dict[str, Tensor]] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.before.append(copy.deepcopy(given["model"].state_dict()))

    seen = Weights()
    trainer = trainer_of(
        tmp_path, callbacks=[seen], optim="sgd", max_grad_norm=0.0, weight_decay=0.0,
        lr_scheduler_type="constant", warmup_steps=0,
    )  # fmt: skip
    run = trained(trainer)
    model: Any = copy.deepcopy(trainer.model)
    model.load_state_dict(seen.before[-1])
    model.zero_grad()
    examples = texts(12)
    for at in run.order[-2:]:
        for row in run.batches.rows[at]:
            ids, labels = (torch.tensor([examples[row][k]]) for k in ("input_ids", "labels"))
            (model(input_ids=ids, labels=labels).loss / 6).backward()
    for name, parameter in model.named_parameters():
        expected = parameter.detach() - 1e-2 * parameter.grad
        moved = dict(trainer.model.named_parameters())[name]
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"collator": default_data_collator, "examples": same_length(12)}, TokenExamples),
        ({"optim": "adamw_torch_fused", "max_grad_norm": 0.0}, OtherExamples),
        ({"optim": "sgd", "warmup_steps": 0, **NESTEROV}, OtherExamples),
        ({"gradient_checkpointing": True}, OtherExamples),
        ({"gradient_accumulation_steps": 1, "max_steps": 3}, OtherExamples),
        ({"gradient_accumulation_steps": 1, "examples": texts(11)}, OtherExamples),
        ({"dataloader_drop_last": True, "examples": texts(13)}, OtherExamples),
        ({"model": llama(tie_word_embeddings=True)}, OtherExamples),
    ],
    ids=[
        "tokens", "fused", "nesterov", "checkpointing", "part of an epoch", "smaller last batch",
        "dropped", "tied",
    ],
)  # fmt: skip
def test_other_trainings_are_repeated_as_well(
    options: dict[str, Any], kind: type, tmp_path: Path
) -> None:
    trainer = trainer_of(tmp_path, **copy.deepcopy(options))
    run = trained(trainer)
    assert_is_the_trainers(run, trainer)
    assert isinstance(run.batches.examples, kind)
    assert run.loss is causal_lm


def test_a_half_precision_model_is_repeated(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, llama().to(torch.bfloat16))
    run = trained(trainer)
    assert run.final.dtype == torch.bfloat16
    assert_is_the_trainers(run, trainer)


def test_a_classifier_padded_by_transformers(tmp_path: Path) -> None:
    model: Any = bert()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    trainer = trainer_of(tmp_path, model, labelled(12), default_data_collator)
    trainer.train_dataset = [
        {**example, "input_ids": [3, 4, 5], "text": "left out"} for example in labelled(12)
    ]
    run = trained(trainer)
    assert run.loss is classification
    assert isinstance(run.batches.examples, TokenExamples)
    assert_is_the_trainers(run, trainer)


def test_a_loss_of_ones_own(tmp_path: Path) -> None:
    def doubled(model: nn.Module, batch: Any) -> Tensor:
        return 2 * causal_lm(model, batch)

    trainer = trainer_of(tmp_path)
    assert_is_the_trainers(trained(trainer, loss=doubled), trainer)


def test_a_resumed_training_is_recorded_from_there(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path, save_strategy="epoch")
    expected = trained(whole)
    resumed = trainer_of(tmp_path)
    recorder = RecordTraining()
    recorder.attach(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    run = recorder.run
    assert run.n_steps == 2
    assert run.rule().taken == 2
    assert torch.equal(run.final, expected.final)
    assert torch.equal(run.train(), run.final)


def test_the_run_is_saved_and_loaded(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, examples=same_length(12), collator=default_data_collator)
    run = trained(trainer)
    run.save(tmp_path / "run")
    loaded = OptimizerRun.load(tmp_path / "run")
    assert torch.equal(loaded.train(), run.final)


class OwnStep(Trainer):
    def training_step(self, *given: Any, **named: Any) -> Any:
        return super().training_step(*given, **named)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bf16": True}, NotYetSupportedError, "bf16"),
        ({"label_smoothing_factor": 0.1}, NotYetSupportedError, "label_smoothing"),
        ({"neftune_noise_alpha": 5.0}, NotYetSupportedError, "neftune"),
        ({"optim": "adafactor"}, UnsupportedModelError, "Adafactor"),
        ({"examples": texts(13)}, NotYetSupportedError, "5 batches are no multiple"),
        ({"own": OwnStep}, NotYetSupportedError, "training_step of OwnStep"),
        ({"loss": lambda *_, **__: 0}, NotYetSupportedError, "compute_loss_func"),
        ({"examples": iter([]), "max_steps": 2}, InputError, "train_dataset"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
            NotYetSupportedError,
            "load_best_model",
        ),
    ],
    ids=[
        "bf16", "label smoothing", "neftune", "adafactor", "unequal steps", "own step", "own loss",
        "iterator", "best model",
    ],
)  # fmt: skip
def test_what_is_not_repeated_is_refused_by_name(
    options: dict[str, Any], error: type[InfluenceError], message: str, tmp_path: Path
) -> None:
    trainer = trainer_of(tmp_path, **options)
    own = trainer.data_collator
    with pytest.raises(error, match=message):
        trained(trainer)
    assert trainer.data_collator is own


def test_the_precision_of_an_earlier_trainer_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(tmp_path)
    monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", "bf16")
    with pytest.raises(NotYetSupportedError, match="follows one in this process"):
        trained(trainer)


def test_weights_changed_by_another_callback_are_noticed(tmp_path: Path) -> None:
    class Shrink(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            with torch.no_grad():
                next(given["model"].parameters()).mul_(0.9)

    trainer = trainer_of(tmp_path)
    recorder = RecordTraining()
    recorder.attach(trainer)
    trainer.add_callback(Shrink())
    with pytest.raises(InputError, match="were changed since"):
        trainer.train()
    with pytest.raises(NotFittedError, match="attach"):
        _ = recorder.run
    recorder.detach()
    assert trainer.compute_loss_func is None


def test_dropout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dropout"):
        trained(trainer_of(tmp_path, gpt2().eval()))  # the Trainer switches it on again


def test_frozen_parameters_and_a_partial_optimizer(tmp_path: Path) -> None:
    model: Any = plain_gpt2()
    model.transformer.wpe.requires_grad_(False)
    trainer = trainer_of(tmp_path, model)
    run = trained(trainer)
    assert "transformer.wpe.weight" not in run.flat.names
    assert_is_the_trainers(run, trainer)
    partial = trainer_of(tmp_path)
    some = list(partial.model.transformer.h.parameters())
    partial.optimizer = torch.optim.AdamW(some, 1e-3)
    with pytest.raises(InputError, match="it lacks"):
        trained(partial)


def test_one_recorder_records_one_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    recorder = RecordTraining()
    with pytest.raises(NotFittedError):
        _ = recorder.run
    recorder.attach(trainer)
    with pytest.raises(InputError, match="attached before"):
        recorder.attach(trainer)


@pytest.mark.parametrize("callback", [RecordTraining, CollectRows])
def test_what_is_no_trainer_is_refused(callback: Any) -> None:
    with pytest.raises(InputError, match=r"Expected a transformers\.Trainer, got a NoneType"):
        callback().attach(None)
