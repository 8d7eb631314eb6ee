"""Adam's moments by name: whatever kept them, they are the live optimizer's."""

import copy

import pytest
import torch
from packaging.version import Version
from torch import nn

from influence.errors import InputError, MissingParameterError, NotYetSupportedError
from llm_influence.adam_state import adam_state
from llm_influence.checkpoints import Checkpoint, as_checkpoints
from tests.llm_influence.tiny_training import gpt2, lora, train


def live(model, optimizer):
    """m, v and step by name, read off the optimizer by the parameters themselves."""
    return {
        name: optimizer.state[value]
        for name, value in model.named_parameters()
        if value in optimizer.state
    }


def assert_same(found, expected):
    assert set(found.exp_avg) == set(found.exp_avg_sq) == set(found.step) == set(expected)
    for name, entry in expected.items():
        assert torch.equal(found.exp_avg[name], entry["exp_avg"]), name
        assert torch.equal(found.exp_avg_sq[name], entry["exp_avg_sq"]), name
        assert found.step[name] == int(entry["step"])


def trained(model, **settings):
    members = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(members, lr=1e-2, **settings)
    train(model, optimizer)
    return optimizer


@pytest.mark.parametrize("make", [gpt2, lora])
def test_every_form_gives_the_live_moments(make, tmp_path):
    model = make()
    optimizer = trained(model, betas=(0.8, 0.95), eps=1e-6)
    expected = live(model, optimizer)
    assert len(expected) == sum(value.requires_grad for value in model.parameters())
    both = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(both, tmp_path / "both.pt")
    torch.save(optimizer.state_dict(), tmp_path / "alone.pt")
    beside = [Checkpoint(both), *as_checkpoints(tmp_path / "both.pt", None, model, 12)]
    given = (optimizer, optimizer.state_dict(), both, str(tmp_path / "alone.pt"))
    for checkpoint in [*beside, *(Checkpoint(adam=adam) for adam in given)]:
        found = adam_state(checkpoint, model)
        assert_same(found, expected)
        assert (found.betas, found.eps) == ((0.8, 0.95), 1e-6)


def test_moments_are_those_of_the_formula():
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.5, 0.75))
    gradients = [torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 0.5]])]
    for gradient in gradients:
        model.weight.grad = gradient.clone()
        optimizer.step()
    found = adam_state(Checkpoint(adam=optimizer), model)
    mean = (0.25 * gradients[0] + 0.5 * gradients[1]) / 0.75
    square = (0.1875 * gradients[0] ** 2 + 0.25 * gradients[1] ** 2) / 0.4375
    torch.testing.assert_close(found.first_moment("weight"), mean)
    torch.testing.assert_close(found.second_moment("weight"), square)
    assert found.step == {"weight": 2}


def test_a_later_step_changes_nothing_read_before():
    model = gpt2()
    optimizer = trained(model)
    expected = copy.deepcopy(live(model, optimizer))
    found = adam_state(Checkpoint(adam=optimizer), model)
    train(model, optimizer, 1)
    assert_same(found, expected)


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.6"), reason="optimizers keep no names before torch 2.6"
)
def test_several_groups_need_names():
    model = gpt2()
    named = [*model.named_parameters()][::-1]  # no order of the model's
    groups = [{"params": named[:5]}, {"params": named[5:], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    train(model, optimizer)
    saved = optimizer.state_dict()
    assert_same(adam_state(Checkpoint(adam=saved), model), live(model, optimizer))
    for group in saved["param_groups"]:
        del group["param_names"]
    with pytest.raises(InputError, match="2 groups of parameters without names"):
        adam_state(Checkpoint(adam=saved), model)
    assert_same(adam_state(Checkpoint(adam=optimizer), model), live(model, optimizer))


def test_second_moments_alone_are_taken_as_they_are(tmp_path):
    model = gpt2()
    optimizer = trained(model)
    squares = {name: e["exp_avg_sq"].clone() for name, e in live(model, optimizer).items()}
    torch.save(squares, tmp_path / "v.pt")
    for adam in (squares, tmp_path / "v.pt"):
        found = adam_state(Checkpoint(adam=adam), model)
        assert found.betas is None and not found.step
        assert all(torch.equal(found.second_moment(name), v) for name, v in squares.items())
        with pytest.raises(MissingParameterError, match=r"moments of transformer.wte.weight"):
            found.first_moment("transformer.wte.weight")


def test_parameters_without_a_gradient_have_no_state():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    optimizer = torch.optim.Adam(model.parameters())
    model["used"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for adam in (optimizer, optimizer.state_dict()):
        found = adam_state(Checkpoint(adam=adam), model)
        assert set(found.exp_avg_sq) == {"used.weight", "used.bias"}
        with pytest.raises(MissingParameterError, match=r"unused.weight are not known"):
            found.second_moment("unused.weight")
    assert len(optimizer.state) == 2, "reading must not add entries to the optimizer"


def test_bfloat16_moments_become_float32():
    model = nn.Linear(2, 2).to(torch.bfloat16)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    found = adam_state(Checkpoint(adam=optimizer.state_dict()), model)
    assert found.exp_avg_sq["weight"].dtype == torch.float32


def test_missing_states_say_how_to_give_them(tmp_path):
    model = gpt2()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    sgd = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    train(model, sgd, 1)
    for checkpoint, message in [
        (Checkpoint(), "comes without the state of Adam"),
        (Checkpoint(model.state_dict()), "comes without the state of Adam"),
        (Checkpoint(tmp_path / "a.pt"), "comes without the state of Adam"),
        (Checkpoint(tmp_path), "comes without the state of Adam"),
        (Checkpoint(adam=torch.optim.Adam(model.parameters())), "it took no step"),
        (Checkpoint(adam=sgd.state_dict()), "momentum_buffer"),
    ]:
        with pytest.raises(MissingParameterError, match=message) as caught:
            adam_state(checkpoint, model)
        assert "adam=" in str(caught.value)


def test_states_of_another_model_are_refused():
    model, other = gpt2(n_layer=1), gpt2(n_layer=2)
    optimizer = trained(other)
    with pytest.raises(InputError, match=r"groups of \[28\] parameters, but .* \[16\]"):
        adam_state(Checkpoint(adam=optimizer.state_dict()), model)
    with pytest.raises(InputError, match="28 of its 28 are others"):
        adam_state(Checkpoint(adam=optimizer), model)
    moved = optimizer.state_dict()
    moved["param_groups"][0]["params"].reverse()
    with pytest.raises(InputError, match=r"transformer.wte.weight \(8,\) for \(20, 8\)"):
        adam_state(Checkpoint(adam=moved), other)
    with pytest.raises(InputError, match=r"strange .* for no parameter"):
        adam_state(Checkpoint(adam={"strange": torch.ones(1)}), model)


def test_other_kinds_of_adam_are_refused_by_name():
    model = gpt2()
    with pytest.raises(NotYetSupportedError, match="no AMSGrad"):
        adam_state(Checkpoint(adam=trained(model, amsgrad=True)), model)
    first, *rest = model.parameters()
    groups = [{"params": [first], "eps": 1e-3}, {"params": rest}]
    optimizer = torch.optim.Adam(groups)
    train(model, optimizer)
    with pytest.raises(NotYetSupportedError, match="one setting"):
        adam_state(Checkpoint(adam=optimizer), model)
