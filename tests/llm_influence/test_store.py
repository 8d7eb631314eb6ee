"""A store gives back what was written, and knows what is missing, damaged or of something else."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from influence.errors import InputError, StorageError
from llm_influence import shard as files
from llm_influence.store import Plan, Store, check_space

RECIPE: dict[str, Any] = {"projection": {"side": 16, "seed": 0}, "layers": ["a", "b"]}

BUT_ONE = torch.tensor([[1.0], [1.0], [0.0], [1.0]])


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def examples_hash(examples: list[int]) -> Callable[[slice], str]:
    return lambda rows: hashlib.sha256(repr(examples[rows]).encode()).hexdigest()[:32]


def plan(n_rows: int = 10, width: int = 3, shard_rows: int | None = 4, **other: Any) -> Plan:
    content = examples_hash([7 * i for i in range(n_rows)])
    return Plan(
        **{
            "recipe": RECIPE, "models": ("m0", "m1"), "n_rows": n_rows, "width": width,
            "content": content, "shard_rows": shard_rows, **other,
        }
    )  # fmt: skip


def values(checkpoint: int, rows: slice, width: int = 3) -> torch.Tensor:
    """Numbers of a row that do not depend on the shard it is in."""
    grid = torch.arange(rows.start, rows.stop)[:, None] * width + torch.arange(width)
    return torch.sin(grid + 0.5 * checkpoint).float()


def build(path: Path, what: Plan) -> list[tuple[int, slice]]:
    """Builds what is missing; returns which shards those were."""
    store = Store.open(path, what)
    built = [(c, rows) for c in range(store.n_checkpoints) for rows in store.missing(c)]
    for c, rows in built:
        store.write(c, rows, values(c, rows, store.width))
    store.finish()
    return built


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def shard(folder: Path, checkpoint: int, first: int) -> Path:
    return folder / f"checkpoint-{checkpoint}" / f"rows-{first:08d}.safetensors"


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


@given(
    n_rows=st.integers(1, 20), width=st.integers(1, 9), shard_rows=st.integers(1, 17),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    cut=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)  # fmt: skip
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    n_rows: int, width: int, shard_rows: int, dtype: str, cut: tuple[int, int],
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("store")
    build(folder, plan(n_rows, width, shard_rows, dtype=dtype))
    store = Store.read(folder)
    start, stop = sorted(min(end, n_rows) for end in cut)
    for c in range(2):
        expected = values(c, slice(0, n_rows), width).to(getattr(torch, dtype))
        listed = list(store.blocks(c))
        assert torch.equal(torch.cat([block for _, block in listed]), expected)
        assert [i for rows, _ in listed for i in range(rows.start, rows.stop)] == [*range(n_rows)]
        assert torch.equal(store.take(c, slice(start, stop)), expected[start:stop])
        assert list(store.blocks(c, slice(start, start))) == []
        assert all(block.dtype == expected.dtype for _, block in listed)
    assert store.verify() == []
    assert store.nbytes == sum(len(b) for name, b in contents(folder).items() if "rows" in name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shard_is_a_safetensors_file(tmp_path: Path, dtype: str) -> None:
    from safetensors import safe_open

    build(tmp_path, plan(dtype=dtype))
    with safe_open(shard(tmp_path, 1, 8), "pt") as file:
        described = file.metadata()
        rows = file.get_tensor("rows")
    assert torch.equal(rows, values(1, slice(8, 10)).to(getattr(torch, dtype)))
    assert (described["first"], described["last"], described["checkpoint"]) == ("8", "10", "1")
    assert described["content"] == examples_hash([7 * i for i in range(10)])(slice(8, 10))


def test_only_what_is_missing_is_built(tmp_path: Path) -> None:
    build(tmp_path / "whole", plan())
    store = Store.open(tmp_path / "cut", plan())
    store.write(0, slice(4, 8), values(0, slice(4, 8)))
    assert store.missing(0) == [slice(0, 4), slice(8, 10)]
    assert Store.open(tmp_path / "cut", plan()).missing(0) == [slice(0, 4), slice(8, 10)]
    with pytest.raises(StorageError, match=r"not finished: 5 of 6 shards are missing.*same build"):
        Store.read(tmp_path / "cut")
    with pytest.raises(StorageError, match="not finished: 5 of 6"):
        store.finish()
    assert len(build(tmp_path / "cut", plan())) == 5
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_writing_to_a_block_changes_no_file(tmp_path: Path) -> None:
    build(tmp_path, plan())
    before = contents(tmp_path)
    for _, block in Store.read(tmp_path).blocks(0):
        block.zero_()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "where", ["length", "header", "type", "blank", "checksum", "rows", "last byte"]
)
def test_a_flipped_bit_is_found_and_its_shard_alone_rebuilt(tmp_path: Path, where: str) -> None:
    build(tmp_path, plan())
    before, damaged = contents(tmp_path), shard(tmp_path, 1, 4)
    content = damaged.read_bytes()
    flip(damaged, {
        "length": 1, "type": content.index(b"F32") + 2,
        "header": content.index(b'"content"') + 14, "blank": files.HEADER_SIZE - 1,
        "checksum": content.index(b'"checksum"') + 14, "rows": files.HEADER_SIZE + 5,
        "last byte": len(content) - 1,
    }[where])  # fmt: skip
    if where in ("header", "rows", "last byte"):
        assert Store.read(tmp_path).verify() == [damaged]
    else:
        with pytest.raises(StorageError, match="1 of 6 shards are missing or damaged"):
            Store.read(tmp_path)
    assert build(tmp_path, plan()) == [(1, slice(4, 8))]
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "damage", ["empty", "truncated", "longer", "absent", "of another place", "of another plan"]
)
def test_a_damaged_shard_counts_as_missing(tmp_path: Path, damage: str) -> None:
    build(tmp_path, plan())
    build(tmp_path / "other", plan(models=("m0", "m2")))
    before, path = contents(tmp_path), shard(tmp_path, 0, 4)
    store, content = Store.read(tmp_path), path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes({
            "empty": b"", "truncated": content[:-5], "longer": content + b"\0",
            "of another place": shard(tmp_path, 1, 4).read_bytes(),
            "of another plan": shard(tmp_path / "other", 0, 4).read_bytes(),
        }[damage])  # fmt: skip
    with pytest.raises(StorageError, match=r"rows-00000004.safetensors is missing or damaged"):
        store.take(0, slice(2, 6))
    assert store.verify() == [path]
    assert build(tmp_path, plan()) == [(0, slice(4, 8))]
    assert contents(tmp_path) == before


def test_rows_can_be_appended(tmp_path: Path) -> None:
    build(tmp_path / "at once", plan(15))
    build(tmp_path / "appended", plan(10))
    kept = os.stat(shard(tmp_path / "appended", 0, 4)).st_ino
    reader = Store.read(tmp_path / "appended")
    ((_, mapped),) = reader.blocks(1, slice(8, 10))
    built = build(tmp_path / "appended", plan(15))
    assert [rows for c, rows in built if c == 0] == [slice(8, 12), slice(12, 15)]
    assert contents(tmp_path / "appended") == contents(tmp_path / "at once")
    assert os.stat(shard(tmp_path / "appended", 0, 4)).st_ino == kept
    assert torch.equal(mapped, values(1, slice(8, 10))), "a mapping outlives its file"
    assert torch.equal(reader.take(1, slice(0, 10)), values(1, slice(0, 10))), "as it was opened"
    assert reader.verify() == []


def test_an_append_that_was_cut_goes_on(tmp_path: Path) -> None:
    build(tmp_path, plan(10))
    store = Store.open(tmp_path, plan(15))
    with pytest.raises(StorageError, match="not finished: 4 of 8"):
        Store.read(tmp_path)
    with pytest.raises(StorageError, match=r"rows-00000008.safetensors is missing"):
        store.take(0, slice(8, 12))
    with pytest.raises(StorageError, match="holds 15 rows, but 10 are asked for"):
        Store.open(tmp_path, plan(10))
    store.write(0, slice(8, 12), values(0, slice(8, 12)))
    with pytest.raises(StorageError, match="not finished: 3 of 8"):
        Store.read(tmp_path)
    assert build(tmp_path, plan(15)) == [
        (0, slice(12, 15)), (1, slice(8, 12)), (1, slice(12, 15)),
    ]  # fmt: skip


@pytest.mark.parametrize(("changed", "first"), [(0, 0), (5, 4), (9, 8)])
@pytest.mark.parametrize("n_rows", [10, 15])
def test_other_examples_are_refused(tmp_path: Path, changed: int, first: int, n_rows: int) -> None:
    build(tmp_path, plan(10))
    before = contents(tmp_path)
    examples = [7 * i for i in range(n_rows)]
    examples[changed] += 1
    with pytest.raises(StorageError, match=f"other training examples from row {first} on"):
        Store.open(tmp_path, plan(n_rows, content=examples_hash(examples)))
    assert contents(tmp_path) == before, "a refusal must change nothing"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"recipe": {**RECIPE, "projection": {"side": 16, "seed": 1}}},
         r"recipe.projection.seed: expected 1, found 0"),
        ({"recipe": {**RECIPE, "projection": {"side": 16}}},
         r"recipe.projection.seed: expected nothing, found 0"),
        ({"recipe": {**RECIPE, "layers": ["a"]}}, r"recipe.layers\[1\]: expected nothing, found"),
        ({"recipe": {**RECIPE, "loss": None}}, r"recipe.loss: expected null, found nothing"),
        ({"recipe": {**RECIPE, "projection": {"side": 16.0, "seed": False}}},
         r"side: expected 16.0, found 16"),
        ({"models": ("m0", "mx")}, r'models\[1\]: expected "mx", found "m1"'),
        ({"models": ("m0",)}, r'models\[1\]: expected nothing, found "m1"'),
        ({"models": tuple("abcdefgh")}, r"and 3 more"),
        ({"width": 4}, r"width: expected 4, found 3"),
        ({"dtype": "bfloat16"}, r'dtype: expected "bfloat16", found "float32"'),
        ({"n_rows": 9}, r"holds 10 rows, but 9 are asked for"),
    ],
)  # fmt: skip
def test_another_plan_is_refused(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    build(tmp_path, plan())
    with pytest.raises(StorageError, match=f"(?s){message}.*another folder, or delete this one"):
        Store.open(tmp_path, plan(**other))


def test_the_shard_size_of_a_store_stands(tmp_path: Path) -> None:
    build(tmp_path, plan(shard_rows=4))
    store = Store.open(tmp_path, plan(shard_rows=5))
    assert store.plan_header["shard_rows"] == 4 and store.missing(0) == []


@pytest.mark.parametrize(
    ("width", "dtype", "rows"),
    [(1, "float32", 1024), (16_384, "float32", 1024), (16_385, "float32", 512),
     (16_385, "bfloat16", 1024), (2**25, "float32", 1)],
)  # fmt: skip
def test_a_shard_is_64_mebibytes_at_most(width: int, dtype: str, rows: int) -> None:
    assert plan(width=width, shard_rows=None, dtype=dtype).header()["shard_rows"] == rows


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for opened in (lambda path: Store.open(path, plan()), Store.read):
        with pytest.raises(StorageError, match=r"holds notes.txt and no manifest.json"):
            opened(tmp_path)
        with pytest.raises(StorageError, match="is a file"):
            opened(tmp_path / "notes.txt")
    with pytest.raises(StorageError, match="found none"):
        Store.read(tmp_path / "absent")
    with pytest.raises(StorageError, match=r"Could not make the store .*notes.txt"):
        Store.open(tmp_path / "notes.txt" / "store", plan())


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda text: text.replace('"format": 1', '"format": 2'), "store of format 2, this version"),
     (lambda text: text[:40], "is damaged"), (lambda text: "[]", "is damaged"),
     (lambda text: text.replace('"n_rows": 10', '"n_rows": 9'), "its checksum is wrong")],
    ids=["format", "truncated", "list", "flipped"],
)  # fmt: skip
def test_other_manifests_are_refused(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    build(tmp_path, plan())
    manifest = tmp_path / "manifest.json"
    manifest.write_text(change(manifest.read_text()))
    for opened in (lambda path: Store.open(path, plan()), Store.read):
        with pytest.raises(StorageError, match=message):
            opened(tmp_path)


def test_no_permission_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        Store.open(tmp_path / "store", plan())


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_a_store_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    build(tmp_path / "whole", plan())
    store = Store.open(tmp_path / "full", plan())
    store.write(0, slice(0, 4), values(0, slice(0, 4)))

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(*((os, "fsync") if where == "fsync" else (Path, "replace")), fail)
        with pytest.raises(StorageError, match=r"full: 1 of 6 shards are there and kept.*goes on"):
            store.write(0, slice(4, 8), values(0, slice(4, 8)))
    assert not [name for name in contents(tmp_path / "full") if name.endswith(".part")]
    assert len(build(tmp_path / "full", plan())) == 5
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_disk_that_is_too_small_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 3 * 2**20})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check_space(tmp_path / "not" / "yet", 3 * 2**20)
    with pytest.raises(StorageError, match=r"needs 5.5 GiB, but its disk has 3.0 MiB free"):
        check_space(tmp_path, int(5.5 * 2**30))
    with pytest.raises(StorageError, match=r"needs 38.1 MiB"):
        Store.open(tmp_path / "store", plan(n_rows=1000, width=5000, shard_rows=None))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [(lambda s: s.write(0, slice(0, 5), values(0, slice(0, 5))), "those of one shard"),
     (lambda s: s.write(0, slice(4, 8), values(0, slice(4, 7))), r"shape \(4, 3\), got \(3, 3\)"),
     (lambda s: s.write(2, slice(0, 4), values(0, slice(0, 4))), "between 0 and 1, got 2"),
     (lambda s: s.write(0, slice(4, 8), values(0, slice(4, 8)) / BUT_ONE),
      "finite; row 6 of checkpoint 0"),
     (lambda s: s.take(0, slice(3, 11)), "slice of 0 to 10"),
     (lambda s: s.take(0, slice(0, 10, 2)), "slice of 0 to 10")],
)  # fmt: skip
def test_wrong_arguments_are_named(
    tmp_path: Path, call: Callable[[Store], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(Store.open(tmp_path, plan()))


@pytest.mark.parametrize(
    ("other", "message"),
    [({"width": 0}, "width must be at least 1"), ({"n_rows": 0}, "n_rows must be at least 1"),
     ({"models": ()}, "at least one checkpoint"), ({"dtype": "float16"}, "dtype must be one of"),
     ({"recipe": {"a": object()}}, "JSON-ready"), ({"recipe": {"a": float("nan")}}, "JSON-ready")],
)  # fmt: skip
def test_wrong_plans_are_named(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Store.open(tmp_path, replace(plan(), **other))


def test_a_store_that_is_read_is_not_written(tmp_path: Path) -> None:
    build(tmp_path, plan())
    store = Store.read(tmp_path)
    with pytest.raises(StorageError, match="opened for reading"):
        store.write(0, slice(0, 4), values(0, slice(0, 4)))
    with pytest.raises(StorageError, match="opened for reading"):
        store.finish()


def test_finish_records_what_is_there_and_not_what_was(tmp_path: Path) -> None:
    build(tmp_path, plan())
    first, second = Store.open(tmp_path, plan()), Store.open(tmp_path, plan())
    second.write(0, slice(0, 4), values(5, slice(0, 4)))
    first.finish()
    assert torch.equal(Store.read(tmp_path).take(0, slice(0, 4)), values(5, slice(0, 4)))
    shard(tmp_path, 1, 4).unlink()
    with pytest.raises(StorageError, match="not finished: 1 of 6"):
        first.finish()


def test_the_manifest_holds_the_plan_and_the_checksums(tmp_path: Path) -> None:
    build(tmp_path, plan())
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert (written["recipe"], written["models"]) == (RECIPE, ["m0", "m1"])
    assert len(written["shards"]) == 6 and Store.read(tmp_path).plan_header["n_rows"] == 10
