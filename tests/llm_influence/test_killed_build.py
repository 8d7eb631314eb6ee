"""`influence llm build` may be killed at any moment, and damage to what it wrote is found."""

import errno
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from influence.cli.main import main
from llm_influence import plan, shard
from llm_influence.commands import llm
from llm_influence.store import Store
from tests.llm_influence import models
from tests.llm_influence.command_line import write

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills")

FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(
    [
        __name__, "llm_influence.tracin", "llm_influence.command_input",
        "transformers.models.gpt2.modeling_gpt2",
    ]
)  # fmt: skip
BUILD = [
    "llm",
    "build",
    "--model",
    "model",
    "--data",
    "train.jsonl",
    "--store",
    "store",
    "--p",
    "4",
]
QUERY = ["llm", "query", "--store", "store", "--queries", "asked.jsonl", "--top", "3", "--quiet"]
ONE = "checkpoint-0/rows-00000008.safetensors"


def build(folder: Path) -> int:
    """The command with shards of 4 rows, for processes of its own too."""
    torch.set_num_threads(1)
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_MOST_ROWS", 4)
        return main([*BUILD, "--quiet"], {"llm": llm})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models.gpt2().save_pretrained(tmp_path / "model")
    rows = models.texts(200)
    write(tmp_path / "train.jsonl", [{"input_ids": row["input_ids"]} for row in rows])
    write(tmp_path / "asked.jsonl", [{"input_ids": [3, 4, 5]}])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def built(folder: Path) -> Iterator[Path]:
    assert build(folder) == 0
    yield folder / "store"


def contents(store: Path) -> dict[str, bytes]:
    found = [path for path in store.rglob("*") if path.is_file()]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in found}


def written(store: Path) -> dict[str, tuple[int, int]]:
    """What tells that a file was written again, and folders that something was put there."""
    found = [store, *store.rglob("*")]
    return {p.relative_to(store).as_posix(): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def test_killed_at_any_moment_the_same_command_goes_on(built: Path) -> None:
    whole = contents(built)
    shutil.rmtree(built)
    rng = random.Random(0)
    n_killed = 0
    for n_awaited in (0, 3, 12, 30):  # shards, before a random moment
        building = FRESH.Process(target=build, args=(built.parent,))
        building.start()
        while building.is_alive() and len([*built.rglob("rows-*.safetensors")]) < n_awaited:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        building.kill()
        building.join()
        n_killed += building.exitcode == -9
        kept = {name: content for name, content in contents(built).items() if "/rows" in name}
        assert kept.items() <= whole.items(), "a shard was there before it was complete"
    assert n_killed >= 2, "the builds ended before they were killed"
    assert build(built.parent) == 0
    assert contents(built) == whole


def test_a_flipped_byte_of_a_shard_is_found_and_that_shard_alone_built(built: Path) -> None:
    whole, before = contents(built), written(built)
    flip(built / ONE, 700)
    assert Store.read(built).verify() == [built / ONE]
    assert build(built.parent) == 0
    assert contents(built) == whole
    again = {name for name, state in written(built).items() if state != before[name]}
    assert again == {ONE, "checkpoint-0", ".", "influence.json"}


@pytest.mark.parametrize("name", ["manifest.json", "influence.json"])
def test_a_flipped_byte_beside_the_shards_is_named(built: Path, name: str, capsys) -> None:
    size = (built / name).stat().st_size
    whole = (built / name).read_bytes()
    for position in random.Random(0).sample(range(size), 12):
        flip(built / name, position)
        blank = (built / name).read_bytes().split() == whole.split()  # one blank for another
        assert main(QUERY, {"llm": llm}) == (0 if blank else 2), position
        told = capsys.readouterr().err
        assert blank or (name in told and "Traceback" not in told), position
        (built / name).write_bytes(whole)


def test_a_full_disk_is_named_and_the_same_command_goes_on(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = contents(built)
    shutil.rmtree(built)

    def fail(_: int) -> None:
        if len([*built.rglob("rows-*.safetensors")]) >= 7:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        assert build(built.parent) == 2
    assert "store is full: 6 of 50 shards are there and kept" in capsys.readouterr().err
    assert build(built.parent) == 0
    assert contents(built) == whole


def test_a_query_writes_nothing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (built / ".manifest.json.elsewhere.1.0123abcd.part").touch()
    before = written(built)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shard, "write_file", refuse)
    monkeypatch.setattr(plan.files, "write_file", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert main(QUERY, {"llm": llm}) == 0
    assert written(built) == before
