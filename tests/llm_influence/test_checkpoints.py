"""Checkpoints: every way to save weights is read to the bit, and the model's own come back."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from influence.errors import (
    InputError,
    NotYetSupportedError,
    StorageError,
    UntrustedFileError,
)
from llm_influence.checkpoints import (
    Checkpoint,
    as_checkpoints,
    fingerprint_of,
    load_into,
    loaded,
)
from tests.llm_influence.tiny_training import assert_same, gpt2, lora, state


def one(weights, model, **other):
    (checkpoint,) = as_checkpoints(weights, None, model, 12)
    return checkpoint


def save_safetensors(model, path):
    tied = {"lm_head.weight"}
    save_file({k: v for k, v in model.state_dict().items() if k not in tied}, path)


def save_folder(model, path):
    model.save_pretrained(path)


def save_shards(model, path):
    model.save_pretrained(path, max_shard_size="2KB")


def save_bin_folder(model, path):
    path.mkdir()
    torch.save(model.state_dict(), path / "pytorch_model.bin")


def save_torch(model, path):
    torch.save(model.state_dict(), path)


def save_nested(model, path):
    torch.save({"epoch": 3, "model_state_dict": model.state_dict()}, path)


WAYS = {
    "a.safetensors": save_safetensors,
    "folder": save_folder,
    "shards": save_shards,
    "bin_folder": save_bin_folder,
    "a.pt": save_torch,
    "a.pth": save_nested,
}


@pytest.mark.parametrize("name", WAYS)
def test_every_file_gives_the_same_weights(name, tmp_path):
    trained, model = gpt2(seed=1), gpt2(seed=0)
    path = tmp_path / name
    WAYS[name](trained, path)
    if name == "shards":
        assert len(list(path.glob("*.safetensors"))) > 1
    for source in (path, str(path), Checkpoint(str(path))):
        checkpoint = one(source, model)
        with loaded(model, checkpoint):
            assert_same(model, state(trained), "a weight was not loaded")
            assert model.lm_head.weight is model.transformer.wte.weight
    assert fingerprint_of(checkpoint, model) == fingerprint_of(Checkpoint(), trained)
    load_into(model, checkpoint)
    assert_same(model, state(trained), "a weight was not loaded")


def test_an_index_of_shards_can_be_named(tmp_path):
    trained, model = gpt2(seed=1), gpt2(seed=0)
    save_shards(trained, tmp_path)
    load_into(model, one(tmp_path / "model.safetensors.index.json", model))
    assert_same(model, state(trained), "a shard was not read")


def test_a_state_dict_in_memory_is_read():
    trained, model = gpt2(seed=1), gpt2(seed=0)
    for weights in (state(trained), {"state_dict": state(trained), "epoch": 1}):
        with loaded(model, one(weights, model)):
            assert_same(model, state(trained), "a weight was not loaded")


def test_the_models_own_weights_come_back():
    model = gpt2(seed=0)
    before, parameters = state(model), dict(model.named_parameters())
    checkpoint = one(state(gpt2(seed=1)), model)
    with pytest.raises(ZeroDivisionError), loaded(model, checkpoint):
        assert not torch.equal(model.lm_head.weight, before["lm_head.weight"])
        _ = 1 / 0
    assert_same(model, before, "an error left the checkpoint's weights in the model")
    with loaded(model, checkpoint), torch.no_grad():
        model.lm_head.weight.add_(1)
    assert_same(model, before, "the checkpoint's weights were left in the model")
    now = dict(model.named_parameters())
    assert all(now[name] is value for name, value in parameters.items())


def test_the_model_as_it_is():
    model = gpt2()
    before = state(model)
    (checkpoint,) = as_checkpoints(None, None, model, 12)
    assert checkpoint.weights is None and checkpoint.rate is None
    with loaded(model, checkpoint):
        assert_same(model, before, "None must change nothing")


def test_weights_are_cast_to_the_models_dtype(tmp_path):
    trained, model = gpt2(seed=1), gpt2(seed=0).to(torch.bfloat16)
    save_folder(trained, tmp_path)
    checkpoint = one(tmp_path, model)
    expected = {name: value.to(torch.bfloat16) for name, value in trained.state_dict().items()}
    with loaded(model, checkpoint):
        assert_same(model, expected, "not cast")
        within = fingerprint_of(Checkpoint(), model)
    assert fingerprint_of(checkpoint, model) == within


def test_fingerprints_tell_weights_apart():
    model = gpt2(seed=0)
    own = fingerprint_of(Checkpoint(), model)
    assert fingerprint_of(one(state(model), model), model) == own
    other = state(model)
    other["transformer.ln_f.bias"][0] += 1e-7
    assert fingerprint_of(one(other, model), model) != own
    swapped = state(model)
    names = ("transformer.h.0.ln_1.weight", "transformer.h.0.ln_1.bias")
    swapped[names[0]], swapped[names[1]] = swapped[names[1]], swapped[names[0]]
    assert fingerprint_of(one(swapped, model), model) != own


def test_an_adapter_is_matched_to_the_live_names(tmp_path):
    trained, model = lora(seed=1), lora(seed=0)
    trained.save_pretrained(tmp_path)
    before = state(model)
    for source in (tmp_path, tmp_path / "adapter_model.safetensors", state(trained)):
        with loaded(model, one(source, model)):
            assert_same(model, state(trained), "an adapter's weight was not loaded")
        assert_same(model, before, "the adapter was not taken out again")
    hashes = {fingerprint_of(one(tmp_path, each), each) for each in (model, trained)}
    assert hashes == {fingerprint_of(Checkpoint(), trained)}
    other_base = lora(seed=0, base_seed=5)
    assert fingerprint_of(one(tmp_path, other_base), other_base) not in hashes


def test_an_adapter_must_be_whole(tmp_path):
    model = lora()
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"unexpected \(base_model.*lora_A.weight"):
        as_checkpoints(tmp_path, None, gpt2(), 12)
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
    with pytest.raises(InputError, match=r"PeftModel.*3 missing .*lora_B.default.weight"):
        as_checkpoints({name: torch.zeros(2, 8)}, None, model, 12)
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(NotYetSupportedError, match="one active adapter"):
        as_checkpoints(tmp_path, None, model, 12)


def test_saved_modules_and_dora_are_adapters_too(tmp_path):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=2, target_modules=["c_attn"], modules_to_save=["ln_f"], use_dora=True, fan_in_fan_out=True
    )
    trained, model = (get_peft_model(gpt2(), settings) for _ in range(2))
    with torch.no_grad():
        for value in trained.parameters():
            if value.requires_grad:
                value.normal_()
    trained.save_pretrained(tmp_path)
    load_into(model, one(tmp_path, model))
    assert_same(model, state(trained), "a trained tensor was left out")


def test_mismatches_are_named_and_change_nothing():
    model = gpt2(seed=0)
    before = state(model)
    odd = state(gpt2(seed=1))
    del odd["transformer.wpe.weight"]
    odd["strange"] = torch.zeros(1)
    odd["transformer.ln_f.bias"] = torch.zeros(3)
    expected = (
        r"GPT2LMHeadModel.*1 missing \(transformer.wpe.weight\).*1 unexpected \(strange\).*"
        r"1 unfit \(transformer.ln_f.bias is \(3,\) float32 for \(8,\) float32"
    )
    with pytest.raises(InputError, match=expected):
        load_into(model, Checkpoint(odd))
    with pytest.raises(InputError, match=expected):
        as_checkpoints([odd], None, model, 12)
    assert_same(model, before, "a refused checkpoint was loaded in part")
    whole = state(model)
    whole["transformer.ln_f.bias"] = torch.zeros(8, dtype=torch.int64)
    with pytest.raises(InputError, match="int64 for"):
        load_into(model, Checkpoint(whole))


def test_tied_weights_must_agree():
    model, untied = gpt2(seed=0), state(gpt2(seed=1))
    untied["lm_head.weight"] = untied["lm_head.weight"] + 1
    with pytest.raises(InputError, match=r"ties them at transformer.wte.weight"):
        load_into(model, Checkpoint(untied))


def test_buffers_may_be_absent_but_parameters_not():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("mask", torch.ones(2), persistent=False)
    entries = {name: value + 1 for name, value in model.named_parameters()}
    load_into(model, Checkpoint({**entries, "mask": torch.zeros(2)}))
    assert all(torch.equal(value, entries[name]) for name, value in model.named_parameters())
    assert torch.equal(model.mask, torch.ones(2))
    with loaded(model, Checkpoint({**entries, "1.running_mean": torch.ones(2)})):
        assert torch.equal(model[1].running_mean, torch.ones(2))
    assert torch.equal(model[1].running_mean, torch.zeros(2))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    model, sprung = gpt2(), tmp_path / "sprung"
    torch.save({"model": model.state_dict(), "extra": Trap(sprung)}, tmp_path / "a.pt")
    with pytest.raises(UntrustedFileError, match="could run code"):
        as_checkpoints(tmp_path / "a.pt", None, model, 12)
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(UntrustedFileError, match="could run code"):
        as_checkpoints(tmp_path / "whole.pt", None, model, 12)
    assert not sprung.exists()


def test_unreadable_files_are_refused(tmp_path):
    model = gpt2()
    (tmp_path / "empty").mkdir()
    for name in ("a.safetensors", "a.pt", "b.txt"):
        (tmp_path / name).write_bytes(b"no checkpoint")
    index = tmp_path / "x.index.json"
    index.write_text("{}")
    torch.save([1], tmp_path / "list.pt")
    torch.save({"lr": 0.1}, tmp_path / "settings.pt")
    for name, error, message in [
        ("absent.pt", StorageError, "there is none"),
        ("empty", StorageError, "Expected one of adapter_model.safetensors"),
        ("a.safetensors", StorageError, "no readable safetensors"),
        ("a.pt", StorageError, "no readable torch file"),
        ("b.txt", InputError, "ends in .safetensors"),
        ("x.index.json", StorageError, "no index of shards"),
        ("list.pt", InputError, "got a list"),
        ("settings.pt", InputError, "no tensors"),
    ]:
        with pytest.raises(error, match=message):
            as_checkpoints(tmp_path / name, None, model, 12)
    save_safetensors(model, tmp_path / "a.safetensors")
    index.write_text(json.dumps({"weight_map": {"strange": "a.safetensors"}}))
    with pytest.raises(StorageError, match=r"its shards lack: \['strange'\]"):
        as_checkpoints(index, None, model, 12)


@pytest.mark.parametrize("mark", ["global_step4", "pytorch_model_fsdp_0"])
def test_sharded_trainings_are_refused_by_name(mark, tmp_path):
    os.mkdir(tmp_path / mark)
    kind = "DeepSpeed" if mark.startswith("global") else "FSDP"
    with pytest.raises(NotYetSupportedError, match=kind):
        as_checkpoints(tmp_path, None, gpt2(), 12)


def test_rates_are_one_for_each():
    model, states = gpt2(), [state(gpt2(seed=seed)) for seed in range(3)]
    given = as_checkpoints(states, [1, 2, 3], model, 12)
    assert [one.rate for one in given] == [1.0, 2.0, 3.0]
    assert [one.name for one in given] == ["checkpoint 0", "checkpoint 1", "checkpoint 2"]
    assert [one.rate for one in as_checkpoints(states, None, model, 12)] == [None] * 3
    own = [Checkpoint(each, rate=0.5, name="mine") for each in states]
    assert [(one.rate, one.name) for one in as_checkpoints(own, None, model, 12)] == [
        (0.5, "mine")
    ] * 3
    for checkpoints, rates, message in [
        (states, [1.0], "one for each of the 3"),
        (states, 1.0, "one for each of the 3"),
        (own, [1.0, 1.0, 1.0], "given once"),
        ([own[0], states[1]], None, "checkpoint 1 has none"),
        (states, [1.0, float("nan"), 1.0], "finite and not negative"),
        (states, [1.0, -1.0, 1.0], "finite and not negative"),
        ([], None, "is empty"),
        (3, None, "got a int"),
    ]:
        with pytest.raises(InputError, match=message):
            as_checkpoints(checkpoints, rates, model, 12)


def test_state_dicts_that_were_not_copied_are_refused():
    model = gpt2()
    with pytest.raises(InputError, match=r"checkpoint 0 and checkpoint 1 share their memory"):
        as_checkpoints([model.state_dict(), model.state_dict()], None, model, 12)
