"""A store survives killed builders, several builders at once, and readers beside them."""

import multiprocessing
import multiprocessing.process
import os
import random
import socket
import stat
import time
from pathlib import Path

import pytest
import torch

from llm_influence.store import Plan, Store

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills and replaces open files")

WIDTH, SHARD_ROWS = 4096, 16  # a shard of 256 KiB
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["llm_influence.store"])


def plan(n_rows: int) -> Plan:
    return Plan(
        {"seed": 0}, ("m0", "m1"), n_rows, WIDTH, lambda rows: f"{rows.start} to {rows.stop}",
        shard_rows=SHARD_ROWS,
    )  # fmt: skip


def values(checkpoint: int, rows: slice) -> torch.Tensor:
    numbers = torch.arange(rows.start, rows.stop)[:, None] * 31 + torch.arange(WIDTH)
    return (numbers % 1013 + checkpoint).float()


def build(path: Path, n_rows: int, rank: int = 0, n_ranks: int = 1, pause: float = 0) -> Store:
    store = Store.open(path, plan(n_rows))
    for c in range(store.n_checkpoints):
        for rows in store.missing(c):
            if rows.start // SHARD_ROWS % n_ranks == rank:
                store.write(c, rows, values(c, rows))
                time.sleep(pause)
    return store


def start(*arguments: object) -> multiprocessing.process.BaseProcess:
    building = FRESH.Process(target=build, args=arguments)
    building.start()
    return building


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def n_shards(folder: Path) -> int:
    return len([*folder.rglob("rows-*.safetensors")])


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path) -> None:
    build(tmp_path / "whole", 150).finish()
    whole, killed = contents(tmp_path / "whole"), tmp_path / "killed"
    rng = random.Random(0)
    for _ in range(6):
        before = n_shards(killed)
        building = start(killed, 150)
        while building.is_alive() and n_shards(killed) <= before:
            time.sleep(0.0002)
        time.sleep(rng.uniform(0, 0.003))
        building.kill()
        building.join()
        kept = {name: content for name, content in contents(killed).items() if "/rows" in name}
        assert kept.items() <= whole.items(), "a shard was there before it was complete"
    build(killed, 150).finish()
    assert contents(killed) == whole
    assert Store.read(killed).verify() == []


def test_a_file_is_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = Store.open(tmp_path, plan(40)), []
    fsync, rename = os.fsync, Path.replace

    def synced(number: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def renamed(path: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    store.write(0, slice(0, 16), values(0, slice(0, 16)))
    assert calls == ["file", "rename", "folder"]


def test_two_processes_build_the_same_store(tmp_path: Path) -> None:
    build(tmp_path / "one", 150).finish()
    store = Store.open(tmp_path / "two", plan(150))
    both = [start(tmp_path / "two", 150, rank, 2, 0.001) for rank in range(2)]
    for building in both:
        building.join()
    assert [building.exitcode for building in both] == [0, 0]
    store.finish()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_reader_goes_on_beside_an_append(tmp_path: Path) -> None:
    build(tmp_path, 40).finish()
    reader, expected = Store.read(tmp_path), values(1, slice(0, 40))
    building = start(tmp_path, 150, 0, 1, 0.002)
    n_reads = 0
    while building.is_alive() or n_reads == 0:
        blocks = [block for _, block in reader.blocks(1)]
        assert torch.equal(torch.cat(blocks), expected)
        n_reads += 1
    building.join()
    assert building.exitcode == 0 and n_reads > 1
    assert reader.verify() == []
    Store.open(tmp_path, plan(150)).finish()
    assert torch.equal(Store.read(tmp_path).take(1, slice(0, 40)), expected)


def test_only_files_of_writers_that_are_gone_are_removed(tmp_path: Path) -> None:
    build(tmp_path, 40)
    gone = start(tmp_path, 40)
    gone.join()
    host, folder = socket.gethostname(), tmp_path / "checkpoint-0"
    names = {
        pid_host: f".rows-00000000.safetensors.{pid_host[1]}.{pid_host[0]}.0123abcd.part"
        for pid_host in [(gone.pid, host), (os.getpid(), host), (gone.pid, "elsewhere.org")]
    }
    for name in names.values():
        (folder / name).write_bytes(b"half")
    Store.open(tmp_path, plan(40))
    left = {path.name for path in folder.glob(".*.part")}
    assert left == {names[os.getpid(), host], names[gone.pid, "elsewhere.org"]}
