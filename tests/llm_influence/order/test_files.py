"""Recorded runs in folders: saved, loaded, damaged."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from influence.change import Reordered, Without
from influence.errors import InputError, StorageError, TrainingDataError
from llm_influence import OptimizerRun, record
from llm_influence.examples import as_examples
from tests.llm_influence import models
from tests.llm_influence.order.recorded import batches, plain_gpt2, recorded


def assert_same(loaded: OptimizerRun, run: OptimizerRun) -> None:
    """The loaded run is the saved one, and trains to the same bits."""
    assert loaded.fingerprint == run.fingerprint
    assert loaded.recipe == run.recipe
    assert loaded.flat == run.flat
    assert loaded.order == run.order
    assert torch.equal(loaded.final, run.final)
    assert torch.equal(loaded.train(), run.final)
    assert torch.equal(loaded.train(Without([0])), run.train(Without([0])))


def round_trip(run: OptimizerRun, folder: Path, **given: Any) -> OptimizerRun:
    run.save(folder / "run")
    loaded = OptimizerRun.load(folder / "run", **given)
    assert_same(loaded, run)
    return loaded


def squares(model: nn.Module, batch: Any) -> Tensor:
    x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
    return (model(x)[:, 0] - y).square()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def points(n: int, size: int = 3) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(size, 3), torch.randn(size)) for _ in range(n)]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "nesterov"])
def test_a_run_of_batches_comes_back(optimizer: str, tmp_path: Path) -> None:
    run = recorded(optimizer, epochs=2, accumulate=2, max_grad_norm=0.5)
    loaded = round_trip(run, tmp_path)
    order = Reordered(run.places.recorded[::-1].copy())
    assert torch.equal(loaded.train(order), run.train(order))
    asked = batches(2, seed=5)
    assert np.array_equal(loaded.losses(loaded.queries(asked)), run.losses(run.queries(asked)))


def test_carried_state_comes_back(tmp_path: Path) -> None:
    for name, make in {
        "adam": lambda p: torch.optim.Adam(p, 1e-2),
        "sgd": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
        "fused": lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
    }.items():
        model = plain_gpt2()
        optimizer = make(model.parameters())
        first = record(model, optimizer)
        for batch in batches(2, seed=9):
            first.step(batch)
        second = record(model, optimizer)
        for batch in batches(3):
            second.step(batch)
        (tmp_path / name).mkdir()
        loaded = round_trip(second.run, tmp_path / name)
        assert second.n_bytes < second.run.n_bytes
        assert loaded.rule().taken > 0


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "llama": models.llama,
    "eager": lambda: models.llama(attn_implementation="eager"),
    "tied llama": lambda: models.llama(tie_word_embeddings=True),
    "bf16": lambda: models.llama().to(torch.bfloat16),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_models_are_built_from_the_folder(name: str, tmp_path: Path) -> None:
    model = ARCHITECTURES[name]()
    before = torch.random.get_rng_state()
    loaded = round_trip(recorded(model=model), tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    types = {n: p.dtype for n, p in loaded.model.named_parameters()}
    assert types == {n: p.dtype for n, p in model.named_parameters()}
    attention: Any = loaded.model.config
    asked: Any = model.config
    assert attention._attn_implementation == asked._attn_implementation


def test_a_classifier_in_evaluation_mode_comes_back(tmp_path: Path) -> None:
    model = models.bert().eval()  # it has dropout
    taken = [{"input_ids": b["input_ids"], "labels": torch.tensor([0, 1, 2])} for b in batches(3)]
    loaded = round_trip(recorded(model=model, taken=taken), tmp_path)
    assert not any(module.training for module in loaded.model.modules())


def test_tied_weights_are_saved_once(tmp_path: Path) -> None:
    run = recorded()
    assert run.start["lm_head.weight"] is run.start["transformer.wte.weight"]
    loaded = round_trip(run, tmp_path)
    with safe_open(tmp_path / "run" / "start.safetensors", "pt") as file:
        assert "weights.transformer.wte.weight" in file.keys()  # noqa: SIM118
        assert "weights.lm_head.weight" not in file.keys()  # noqa: SIM118
    model: Any = loaded.model
    assert model.lm_head.weight is model.transformer.wte.weight


def test_frozen_parameters_come_from_the_start(tmp_path: Path) -> None:
    model: Any = plain_gpt2()
    for parameter in model.transformer.h[0].parameters():
        parameter.requires_grad_(False)
        parameter.data += 0.1
    loaded = round_trip(recorded(model=model, rate=1e-2), tmp_path)
    frozen = [n for n, p in loaded.model.named_parameters() if not p.requires_grad]
    assert frozen and all(name.startswith("transformer.h.0") for name in frozen)


def test_rows_of_token_examples_are_in_the_folder(tmp_path: Path) -> None:
    examples = as_examples(pd.DataFrame(models.texts(9), index=list("abcdefghi")))[2:8]
    model = plain_gpt2()
    recording = record(model, torch.optim.Adam(model.parameters(), 1e-2), dataset=examples)
    for rows in ([0, 3], [1, 2, 5], [4], [3, 0]):
        recording.step(rows)
    run = recording.run
    loaded = round_trip(run, tmp_path)
    assert loaded.by("sample").train_index.tolist() == list("cdefgh")
    assert_same(loaded.by("sample"), run.by("sample"))
    with pytest.raises(InputError, match="leave it out"):
        OptimizerRun.load(tmp_path / "run", dataset=examples)


def test_rows_of_other_examples_need_them_again(tmp_path: Path) -> None:
    x, y = (torch.cat(parts) for parts in zip(*points(3), strict=True))
    model, data = network(), TensorDataset(x, y)
    recording = record(model, torch.optim.SGD(model.parameters(), 0.1), squares, dataset=data)
    for rows in ([0, 1], [2, 3, 4]):
        recording.step(rows)
    given = {"model": network(5), "loss": squares}
    round_trip(recording.run, tmp_path, **given, dataset=data)
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="dataset=examples"):
        OptimizerRun.load(folder, **given)
    with pytest.raises(TrainingDataError, match="9 others"):
        OptimizerRun.load(folder, **given, dataset=TensorDataset(y, x))


def network_run(taken: list[Any] | None = None, model: nn.Module | None = None) -> OptimizerRun:
    model = network() if model is None else model
    recording = record(model, torch.optim.Adam(model.parameters(), 0.1), squares)
    for batch in points(3) if taken is None else taken:
        recording.step(batch)
    return recording.run


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "nested", "shared"])
def test_batches_keep_their_structure(kind: str, tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        inner = batch["inner"] if isinstance(batch, dict) and "inner" in batch else batch
        return squares(model, inner)

    make: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "tuple": lambda x, y: (x, y),
        "list": lambda x, y: [x, y],
        "dict": lambda x, y: {"x": x, "y": y},
        "nested": lambda x, y: {"inner": (x, y), "batches.2": [y, (y, y)]},
        "shared": lambda x, _: (x, x[:, 0]),
    }
    model = network()
    recording = record(model, torch.optim.Adam(model.parameters(), 0.1), loss)
    for x, y in points(3):
        recording.step(make[kind](x, y))
    loaded = round_trip(recording.run, tmp_path, model=network(3), loss=loss)
    assert type(loaded.batch(1)) is type(recording.run.batch(1))


def test_a_model_of_the_users_own_has_to_be_given(tmp_path: Path) -> None:
    run = network_run()
    given = network(7)
    before = [p.clone() for p in given.parameters()]
    round_trip(run, tmp_path, model=given, loss=squares)
    assert all(map(torch.equal, before, given.parameters()))
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="model=model"):
        OptimizerRun.load(folder, loss=squares)
    with pytest.raises(InputError, match="loss=loss"):
        OptimizerRun.load(folder, model=given)
    with pytest.raises(InputError, match="losses of the recording"):
        OptimizerRun.load(folder, given, lambda model, batch: squares(model, batch) / 2)
    same = OptimizerRun.load(folder, given, lambda model, batch: squares(model, batch))
    assert torch.equal(same.train(), run.final)
    with pytest.raises(InputError, match=r"has 0.weight of shape"):
        other = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        OptimizerRun.load(folder, other, squares)


def test_an_adapter_has_to_be_on_the_given_model(tmp_path: Path) -> None:
    model = models.lora().eval()
    run = recorded(model=model)
    round_trip(run, tmp_path, model=models.lora())
    with pytest.raises(InputError, match="LoRA"):
        OptimizerRun.load(tmp_path / "run")
    with pytest.raises(InputError, match="lacks base_model"):
        OptimizerRun.load(tmp_path / "run", models.gpt2())


class Scaled(nn.Module):
    """A buffer in the state dict, and one that is not."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("shift", torch.full((1,), scale))
        self.register_buffer("scale", torch.full((1,), scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale + self.shift


def test_buffers_come_back(tmp_path: Path) -> None:
    run = network_run(model=Scaled(0.3))
    loaded = round_trip(run, tmp_path, model=Scaled(1.0), loss=squares)
    assert dict(loaded.model.named_buffers())["scale"].tolist() == pytest.approx([0.3])
    assert "scale" not in loaded.model.state_dict()


class Halved(nn.Module):
    """Layers of two types."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 4, dtype=torch.bfloat16)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.bfloat16()).float())


def test_parameters_of_two_types_come_back(tmp_path: Path) -> None:
    round_trip(network_run(model=Halved()), tmp_path, model=Halved(), loss=squares)


def test_tying_must_be_as_recorded(tmp_path: Path) -> None:
    recorded(model=models.llama(tie_word_embeddings=True)).save(tmp_path / "run")
    with pytest.raises(InputError, match="does not tie"):
        OptimizerRun.load(tmp_path / "run", models.llama())


def test_the_size_is_known_before(tmp_path: Path) -> None:
    run = recorded()
    run.save(tmp_path / "run")
    written = sum(file.stat().st_size for file in (tmp_path / "run").glob("*.safetensors"))
    assert 0 <= written - run.n_bytes < 2e4, "more than the headers"
    model = plain_gpt2()
    held = [
        tensor.numel() * tensor.element_size()
        for name in ("start", "final")
        for tensor in load_file(tmp_path / "run" / f"{name}.safetensors").values()
    ]
    assert record(model, torch.optim.Adam(model.parameters())).n_bytes == sum(held)


def test_every_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    recorded(n_batches=2).save(tmp_path / "run")
    files = sorted(file.name for file in (tmp_path / "run").iterdir())
    assert files == [
        "config.json", "final.safetensors", "manifest.json", "start.safetensors",
        "steps.safetensors",
    ]  # fmt: skip
    for name in files:
        path = tmp_path / "run" / name
        whole = path.read_bytes()
        at = len(whole) // 2
        for damaged in (
            whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
            whole[:-9],
            b"",
        ):
            path.write_bytes(damaged)
            with pytest.raises(StorageError, match=f"{name} is damaged"):
                OptimizerRun.load(tmp_path / "run")
        path.unlink()
        with pytest.raises(StorageError, match=name):
            OptimizerRun.load(tmp_path / "run")
        path.write_bytes(whole)
    OptimizerRun.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "store"}, "'store'"),
        ({"unit": "sample"}, "is damaged"),
    ],
)
def test_other_manifests_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    recorded(n_batches=2).save(tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(StorageError, match=message):
        OptimizerRun.load(tmp_path / "run")
    with pytest.raises(StorageError, match=r"no .*manifest\.json"):
        OptimizerRun.load(tmp_path)


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_no_model_or_loss_is_refused(tmp_path: Path) -> None:
    recorded().save(tmp_path / "run" / "run")
    wrong: Any = "text"
    with pytest.raises(InputError, match="torch module as model, got a str"):
        OptimizerRun.load(tmp_path / "run" / "run", model=wrong)
    with pytest.raises(InputError, match=r"loss.model, batch., got a str"):
        OptimizerRun.load(tmp_path / "run" / "run", loss=wrong)
    with pytest.raises(StorageError, match=r"there is no .*manifest.json; .* is .*run/run"):
        OptimizerRun.load(tmp_path / "run")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = recorded(n_batches=2)
    with files_of_at_most(4096), pytest.raises(StorageError, match="Could not write"):
        run.save(tmp_path / "run")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Use", (), {"free": 100}))
    with pytest.raises(StorageError, match="free space"):
        run.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    run = recorded(n_batches=2)
    with pytest.raises(InputError, match="exists"):
        run.save(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Could not write"):
        run.save(tmp_path / "file" / "run")


def test_keys_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return squares(model, (batch[0], batch[1]))

    model = network()
    recording = record(model, torch.optim.Adam(model.parameters(), 0.1), loss)
    x, y = points(1)[0]
    recording.step({0: x, 1: y})
    with pytest.raises(InputError, match="the key 0"):
        recording.run.save(tmp_path / "run")
    assert not list(tmp_path.iterdir())
