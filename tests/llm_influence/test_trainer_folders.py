"""Folders that Hugging Face's Trainer really wrote: weights, moments by name, rates."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from influence.errors import (
    InputError,
    MissingParameterError,
    NotYetSupportedError,
    StorageError,
)
from llm_influence.adam_state import adam_state
from llm_influence.checkpoints import Checkpoint, as_checkpoints, loaded
from tests.llm_influence.tiny_training import (
    N_TRAIN,
    assert_same,
    gpt2,
    lora,
    run_trainer,
    state,
)

needs_exact_logs = pytest.mark.skipif(
    Version(transformers.__version__) < Version("4.51"),
    reason="older Trainers log the rate of the step to come",
)


class Witness(TrainerCallback):
    """Keeps what the training itself held: weights at each save, and every step's rate."""

    def __init__(self):
        self.weights, self.moments, self.rates = {}, {}, []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_save(self, args, state_, control, model=None, optimizer=None, **_):
        self.weights[state_.global_step] = state(model)
        self.moments[state_.global_step] = {
            name: {key: kept.clone() for key, kept in optimizer.state[value].items()}
            for name, value in model.named_parameters()
            if value.requires_grad
        }


def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=8, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


@pytest.fixture(scope="module", params=[gpt2, llama, lora], ids=["gpt2", "llama", "lora"])
def trained(request, tmp_path_factory):
    """The model's maker, the Trainer's output_dir, and the witness."""
    folder, witness = tmp_path_factory.mktemp("trainer"), Witness()
    run_trainer(request.param(), folder, callbacks=[witness])
    return request.param, folder, witness


@pytest.fixture
def folder(trained, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(trained[1], tmp_path / "run"))


def test_an_output_dir_stands_for_its_checkpoints(trained):
    make, folder, witness = trained
    model = make()
    before = state(model)
    found = as_checkpoints(folder, None, model, N_TRAIN)
    assert [one.name for one in found] == ["checkpoint-2", "checkpoint-4"]
    for checkpoint, step in zip(found, (2, 4), strict=True):
        with loaded(model, checkpoint):
            assert_same(model, witness.weights[step], "not the weights that were trained")
    assert_same(model, before, "the model's own weights were not put back")


def test_moments_are_those_of_the_training_by_name(trained):
    make, folder, witness = trained
    model = make()
    for checkpoint, step in zip(as_checkpoints(folder, None, model, N_TRAIN), (2, 4), strict=True):
        found = adam_state(checkpoint, model)
        expected = witness.moments[step]
        assert set(found.exp_avg_sq) == set(expected)
        for name, entry in expected.items():
            assert torch.equal(found.exp_avg[name], entry["exp_avg"]), name
            assert torch.equal(found.exp_avg_sq[name], entry["exp_avg_sq"]), name
            assert found.step[name] == step


@needs_exact_logs
def test_rates_are_the_sums_of_the_steps_taken(trained):
    make, folder, witness = trained
    model = make()
    assert len(witness.rates) == 4
    expected = [sum(witness.rates[:2]) / N_TRAIN, sum(witness.rates[2:]) / N_TRAIN]
    found = [one.rate for one in as_checkpoints(folder, None, model, N_TRAIN)]
    assert found == pytest.approx(expected, rel=1e-12)
    (last,) = as_checkpoints(str(folder / "checkpoint-4"), None, model, N_TRAIN)
    assert last.rate == pytest.approx(sum(expected), rel=1e-12)
    given = as_checkpoints(folder, [1.0, 2.0], model, N_TRAIN)
    assert [one.rate for one in given] == [1.0, 2.0]


def change_state(folder, change):
    for path in folder.glob("*/trainer_state.json"):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


@needs_exact_logs
def test_rates_between_logs_are_interpolated(trained, folder):
    """The schedule is linear, so what two logs leave out is exact."""
    make, _, witness = trained

    def thin(content):
        content["log_history"] = [e for e in content["log_history"] if e["step"] in (1, 4)]

    change_state(folder, thin)
    expected = [sum(witness.rates[:2]) / N_TRAIN, sum(witness.rates[2:]) / N_TRAIN]
    found = [one.rate for one in as_checkpoints(folder, None, make(), N_TRAIN)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_rates_that_were_not_logged_are_asked_for(trained, folder):
    model = trained[0]()
    change_state(folder, lambda content: content.update(log_history=[{"step": 2, "eval_loss": 1}]))
    with pytest.raises(MissingParameterError, match=r"no learning rate .* give rates="):
        as_checkpoints(folder, None, model, N_TRAIN)
    given = as_checkpoints(folder, [1.0, 2.0], model, N_TRAIN)
    assert [one.rate for one in given] == [1.0, 2.0]


def test_rates_need_one_run_in_the_order_of_steps(trained, folder, tmp_path):
    model = trained[0]()
    second, fourth = folder / "checkpoint-2", folder / "checkpoint-4"
    other = shutil.copytree(fourth, tmp_path / "other" / "checkpoint-4")
    for listed in ([fourth, second], [second, second], [second, other]):
        with pytest.raises(InputError, match="one training run in the order of their steps"):
            as_checkpoints(listed, None, model, N_TRAIN)
        assert len(as_checkpoints(listed, [1.0, 1.0], model, N_TRAIN)) == 2
    with pytest.raises(InputError, match="Either all checkpoints have a rate"):
        as_checkpoints([second, state(model)], None, model, N_TRAIN)
    (fourth / "trainer_state.json").write_text("{}")
    with pytest.raises(StorageError, match="no Trainer's state"):
        as_checkpoints(folder, None, model, N_TRAIN)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_training_args_are_never_opened(trained, folder, tmp_path):
    sprung = tmp_path / "sprung"
    for name in ("checkpoint-2", "checkpoint-4"):
        torch.save(Trap(sprung), folder / name / "training_args.bin")
    model = trained[0]()
    for checkpoint in as_checkpoints(folder, None, model, N_TRAIN):
        adam_state(checkpoint, model)
    assert not sprung.exists()


def test_optimizers_that_are_not_there_are_named(trained, folder):
    make, second = trained[0], folder / "checkpoint-2"
    model = make()
    (second / "optimizer.pt").unlink()
    with pytest.raises(MissingParameterError, match="checkpoint-2 comes without"):
        adam_state(as_checkpoints(second, None, model, N_TRAIN)[0], model)
    os.mkdir(second / "optimizer_0")
    with pytest.raises(NotYetSupportedError, match="FSDP"):
        adam_state(as_checkpoints(second, None, model, N_TRAIN)[0], model)
    adam = folder / "checkpoint-4"
    named = adam_state(Checkpoint(second, adam=adam, name="mine"), model)
    assert set(named.step.values()) == {4}


def test_parameters_frozen_since_are_noticed(trained):
    make, folder, _ = trained
    model = make().requires_grad_(False)
    with pytest.raises(InputError, match="set requires_grad as in training"):
        adam_state(as_checkpoints(folder, None, model, N_TRAIN)[0], model)
