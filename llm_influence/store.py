"""`Store`: a folder of projected gradients, built shard by shard, resumed, appended to and read.

    manifest.json                          the plan; once finished, the checksum of every shard
    checkpoint-0/rows-00000000.safetensors rows 0 .. shard_rows - 1 of checkpoint 0
    checkpoint-0/rows-00001024.safetensors ...

While it is built, every shard speaks for itself: nothing that is written for each shard lies in a
shared file, so several processes may write different shards of one store.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from influence.errors import InputError, StorageError
from influence.run import blocks
from llm_influence import shard as files
from llm_influence.plan import (
    Plan,
    check_same_plan,
    plan_fingerprint,
    read_manifest,
    write_manifest,
)
from llm_influence.shard import RowType, Shard

_Place = tuple[int, int]  # checkpoint, first row of the shard


class Store:
    """Rows of projected gradients of every checkpoint, memory-mapped from a folder.

    Made by `Store.open`, which builds, or `Store.read`, which does not:

        store = Store.open(path, plan)
        for checkpoint in range(store.n_checkpoints):
            for rows in store.missing(checkpoint):
                store.write(checkpoint, rows, gradients(checkpoint, rows))
        store.finish()

    Several processes share the work by the shard, not by the list of what is missing, which
    depends on when it was made: process r of R takes those with
    rows.start // shard_rows % R == r, and one of them calls `finish` after all are done.

    Cost: `open` reads all that is there at the speed of CRC-32 (some GB/s); `read` only headers;
    `blocks` maps one shard at a time.

    Attributes:
        plan_header: recipe, models, n_rows, width, dtype, shard_rows and format.
    """

    def __init__(
        self, path: Path, header: dict[str, Any], content: Callable[[slice], str] | None
    ) -> None:
        self.path, self.plan_header = path, header
        self.n_rows: int = header["n_rows"]
        self.width: int = header["width"]
        self.dtype: RowType = header["dtype"]
        self.shard_rows: int = header["shard_rows"]
        self.n_checkpoints = len(header["models"])
        self._content = content
        firsts = range(0, self.n_rows, self.shard_rows)
        self._places = {(c, first) for c in range(self.n_checkpoints) for first in firsts}
        self._plan = plan_fingerprint(header)
        self._checksums: dict[_Place, str] = {}  # of the shards known to be there

    @classmethod
    def open(cls, path: str | os.PathLike[str], plan: Plan) -> Self:
        """Makes a folder, or opens an existing one to go on building it.

        Reads all shards that are there; a damaged one counts as missing. Training examples may
        have been appended; then complete shards stay, and the last one is built again.

        Raises:
            StorageError: The folder holds a store of another plan, of other training examples, of
                more rows, or something else; or there is not enough space; or no permission.
        """
        folder, header = Path(path), plan.header()
        with _as_storage_error(f"open the store {folder}"):
            found = read_manifest(folder)
        if found is not None:
            header["shard_rows"] = found["shard_rows"]
            check_same_plan(folder, header, found)
        store = cls(folder, header, plan.content)
        store._find_shards()
        check_space(folder, store._nbytes(store._places - store._checksums.keys()))
        with _as_storage_error(f"make the store {folder}"):
            for inner in (folder, *map(store._folder, range(store.n_checkpoints))):
                files.remove_abandoned(inner)
            folder.mkdir(parents=True, exist_ok=True)
            if found is None or found["n_rows"] != plan.n_rows:
                write_manifest(folder, header)
        return store

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Opens a finished store for reading. Checks headers and sizes; `verify` checks the rest.

        Raises:
            StorageError: There is no store, it is not finished, or shards are missing.
        """
        folder = Path(path)
        with _as_storage_error(f"read the store {folder}"):
            found = read_manifest(folder)
        if found is None:
            raise StorageError(f"Expected a store at {folder}, found none: build it first.")
        recorded = found.pop("shards", None)
        store = cls(folder, found, None)
        for place in store._places:
            shard = store._mapped(place)
            wanted = None if recorded is None else recorded[store._name(place)]
            if shard is not None and wanted in (None, shard[0].checksum):
                store._checksums[place] = shard[0].checksum
        if recorded is None or store._checksums.keys() != store._places:
            raise StorageError(f"The store {folder} is not finished: {store._how_to_go_on()}")
        return store

    @property
    def nbytes(self) -> int:
        """Size of the whole store when it is finished, without the manifest."""
        return self._nbytes(self._places)

    def missing(self, checkpoint: int) -> list[slice]:
        """Rows of the shards that were not there, or damaged, and that this object has not written.

        Each is one whole shard.
        """
        self._check_checkpoint(checkpoint)
        return [
            rows
            for rows in blocks(self.n_rows, self.shard_rows)
            if (checkpoint, rows.start) not in self._checksums
        ]

    def write(self, checkpoint: int, rows: slice, values: torch.Tensor) -> None:
        """Writes one whole shard; a reader sees all of it or nothing.

        Args:
            checkpoint: Number of the checkpoint.
            rows: The rows of one shard, as `missing` gives them.
            values: Shape (n_rows of the shard, width); rounded to the store's dtype.

        Raises:
            StorageError: The disk is full or not writable. What is complete is kept.
        """
        self._check_checkpoint(checkpoint)
        content = self._building()
        place = (checkpoint, rows.start)
        if place not in self._places or rows != self._rows(place):
            raise InputError(
                f"rows must be those of one shard, as missing(...) gives them; got {rows}."
            )
        values = files.as_rows(values, self.dtype)
        shape = (rows.stop - rows.start, self.width)
        if values.shape != shape:
            raise InputError(f"values must have shape {shape}, got {tuple(values.shape)}.")
        finite = values.isfinite().all(dim=1)
        if not finite.all():
            wrong = rows.start + int(finite.int().argmin())
            raise InputError(
                f"values must be finite; row {wrong} of checkpoint {checkpoint} holds an infinity "
                "or no number: look at that example's loss."
            )
        shard = Shard(checkpoint, rows.start, rows.stop, content(rows), self._plan)
        with self._as_full_disk(place):
            self._folder(checkpoint).mkdir(exist_ok=True)
            shard = files.write_shard(self._file(place), shard, values, self.dtype)
        self._checksums[place] = shard.checksum

    def finish(self) -> None:
        """Records the checksums of all shards, after which the store can be read.

        Called by one process, after all have written their shards; what others have written is
        read and checked. Where the manifest says so already, nothing is written.

        Raises:
            StorageError: Shards are missing.
        """
        self._building()
        for place, checksum in [*self._checksums.items()]:
            found = self._mapped(place)
            if found is None or found[0].checksum != checksum:  # written by another since
                del self._checksums[place]
        self._find_shards()
        if self._checksums.keys() != self._places:
            raise StorageError(f"The store {self.path} is not finished: {self._how_to_go_on()}")
        listed = {self._name(place): self._checksums[place] for place in sorted(self._places)}
        whole = {**self.plan_header, "shards": listed}
        with _as_storage_error(f"finish the store {self.path}"):
            if read_manifest(self.path) != whole:
                write_manifest(self.path, whole)

    def blocks(
        self, checkpoint: int, rows: slice | None = None
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """Streams rows in order, one shard at a time, memory-mapped and not copied.

        Args:
            checkpoint: Number of the checkpoint.
            rows: Which rows; all by default.

        Yields:
            Rows and their values, shape (n_rows of the block, width), of the stored dtype.

        Raises:
            StorageError: A shard is missing or damaged.
        """
        self._check_checkpoint(checkpoint)
        asked = self._asked(rows)
        size = self.shard_rows
        for first in range(asked.start // size * size, asked.stop, size):
            found = self._mapped((checkpoint, first))
            if found is None:
                raise StorageError(
                    f"{self._file((checkpoint, first))} is missing or damaged: "
                    "build the store again, only what is missing is computed."
                )
            start, stop = max(first, asked.start), min(first + size, asked.stop)
            if start < stop:
                yield slice(start, stop), found[1][start - first : stop - first]

    def take(self, checkpoint: int, rows: slice) -> torch.Tensor:
        """A copy of some rows, shape (n_rows, width), of the stored dtype."""
        asked = self._asked(rows)
        out = files.empty_rows(asked.stop - asked.start, self.width, self.dtype)
        for block, values in self.blocks(checkpoint, asked):
            out[block.start - asked.start : block.stop - asked.start] = values
        return out

    def verify(self) -> list[Path]:
        """Reads everything; returns the files that are no longer what was written."""
        wrong = []
        for place, checksum in sorted(self._checksums.items()):
            shard = self._intact(place)
            longer = shard is not None and shard.last > self._rows(place).stop  # appended to since
            if shard is None or (shard.checksum != checksum and not longer):
                wrong.append(self._file(place))
        return wrong

    def _find_shards(self) -> None:
        """Checks the shards that are not known yet and notes those that need not be built."""
        content_of = self._building()
        for rows in blocks(self.n_rows, self.shard_rows):
            content: dict[int, str] = {}  # by last row: the checkpoints share it
            for checkpoint in range(self.n_checkpoints):
                place = (checkpoint, rows.start)
                shard = None if place in self._checksums else self._intact(place, or_shorter=True)
                if shard is None or shard.last > rows.stop:
                    continue
                if shard.last not in content:
                    content[shard.last] = content_of(slice(shard.first, shard.last))
                if content[shard.last] != shard.content:
                    raise StorageError(
                        f"{self.path} holds other training examples from row {shard.first} on "
                        f"(rows {shard.first} to {shard.last - 1} differ): give the examples it "
                        "was built from, with new ones only at the end; or use another folder, or "
                        "delete this one."
                    )
                if shard.last == rows.stop:
                    self._checksums[place] = shard.checksum

    def _mapped(self, place: _Place) -> tuple[Shard, torch.Tensor] | None:
        with _as_storage_error(f"read {self._file(place)}"):
            found = files.map_shard(self._file(place), self.width, self.dtype)
        return found if found is not None and self._belongs(found[0], place) else None

    def _intact(self, place: _Place, *, or_shorter: bool = False) -> Shard | None:
        with _as_storage_error(f"read {self._file(place)}"):
            shard = files.intact_shard(self._file(place), self.width, self.dtype)
        return shard if shard is not None and self._belongs(shard, place, or_shorter) else None

    def _belongs(self, shard: Shard, place: _Place, or_shorter: bool = False) -> bool:
        """Whether a shard is the one of its place, and holds all its rows.

        It may hold more where the store was appended to since this object was made.
        """
        same = (shard.checkpoint, shard.first) == place and shard.plan == self._plan
        fits = shard.n_rows <= self.shard_rows
        return same and fits and (or_shorter or shard.last >= self._rows(place).stop)

    @contextmanager
    def _as_full_disk(self, place: _Place) -> Iterator[None]:
        try:
            with _as_storage_error(f"write {self._file(place)}"):
                yield
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
                raise
            left = self._nbytes(self._places - self._checksums.keys())
            raise StorageError(
                f"The disk of {self.path} is full: {len(self._checksums)} of "
                f"{len(self._places)} shards are there and kept. Free {_size(left)} and run the "
                "same again: it goes on from here."
            ) from error

    def _how_to_go_on(self) -> str:
        n_missing = len(self._places) - len(self._checksums)
        return (
            f"{n_missing} of {len(self._places)} shards are missing or damaged. Run the same build "
            "again, to its end: only what is missing is computed."
        )

    def _building(self) -> Callable[[slice], str]:
        if self._content is None:
            raise StorageError(f"{self.path} was opened for reading: use Store.open to build it.")
        return self._content

    def _check_checkpoint(self, checkpoint: int) -> None:
        if not 0 <= checkpoint < self.n_checkpoints:
            raise InputError(
                f"checkpoint must be between 0 and {self.n_checkpoints - 1}, got {checkpoint}."
            )

    def _asked(self, rows: slice | None) -> slice:
        asked = slice(None) if rows is None else rows
        start = 0 if asked.start is None else asked.start
        stop = self.n_rows if asked.stop is None else asked.stop
        if not 0 <= start <= stop <= self.n_rows or asked.step not in (None, 1):
            raise InputError(f"rows must be a plain slice of 0 to {self.n_rows}, got {rows}.")
        return slice(start, stop)

    def _rows(self, place: _Place) -> slice:
        return slice(place[1], min(place[1] + self.shard_rows, self.n_rows))

    def _nbytes(self, places: set[_Place]) -> int:
        n_rows = sum(self._rows(place).stop - place[1] for place in places)
        return n_rows * self.width * files.ITEM_SIZE[self.dtype] + len(places) * files.HEADER_SIZE

    def _folder(self, checkpoint: int) -> Path:
        return self.path / f"checkpoint-{checkpoint}"

    def _file(self, place: _Place) -> Path:
        return self.path / self._name(place)

    def _name(self, place: _Place) -> str:
        return f"checkpoint-{place[0]}/rows-{place[1]:08d}.safetensors"


def check_space(path: str | os.PathLike[str], nbytes: int) -> None:
    """Refuses to start what the disk of a path, existing or not, has no room for.

    Raises:
        StorageError: Fewer than `nbytes` bytes are free.
    """
    there = Path(path).absolute()
    while not there.exists():
        there = there.parent
    with _as_storage_error(f"ask for the free space of {there}"):
        free = shutil.disk_usage(there).free
    if free < nbytes:
        raise StorageError(
            f"{path} needs {_size(nbytes)}, but its disk has {_size(free)} free: free some, use "
            "another disk, a smaller projection, fewer checkpoints or bfloat16."
        )


def _size(nbytes: float) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"


@contextmanager
def _as_storage_error(what: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"Could not {what}: {error}.") from error
