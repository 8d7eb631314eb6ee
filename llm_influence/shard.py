"""One file of a store: some rows of projected gradients, described and checksummed.

    8 bytes      length of the header, little-endian
    header       JSON padded with blanks to a multiple of 512 bytes in all
    rows         shape (last - first, width), little-endian

It is a safetensors file of one tensor, `rows`, whose metadata are the fields of `Shard`. It is
written here and not by the library, which orders metadata at random: the same shard is always the
same bytes. The checksum covers header and rows, so a flipped bit anywhere is found. CRC-32 because
it is the fastest of the standard library; it guards against accidents (one in 2^32 passes), not
against forgery.
"""

import json
import mmap
import os
import re
import secrets
import socket
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch

RowType = Literal["float32", "bfloat16"]
ITEM_SIZE: dict[RowType, int] = {"float32": 4, "bfloat16": 2}
HEADER_SIZE = 512  # unless the fingerprint of the content is unusually long

_TORCH: dict[RowType, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SAFETENSORS: dict[RowType, str] = {"float32": "F32", "bfloat16": "BF16"}
_PART = re.compile(r"\..+\.(?:json|safetensors)\.(?P<host>.+)\.(?P<pid>\d{1,9})\.[0-9a-f]{8}\.part")


@dataclass(frozen=True)
class Shard:
    """What a shard says of itself.

    Args:
        checkpoint: Number of the checkpoint.
        first: First row.
        last: Row after the last one.
        content: Fingerprint of the training examples of these rows.
        plan: Fingerprint of how the rows were computed.
        checksum: Of header and rows, 8 hexadecimal digits.
    """

    checkpoint: int
    first: int
    last: int
    content: str
    plan: str
    checksum: str = "0" * 8

    @property
    def n_rows(self) -> int:
        return self.last - self.first

    @classmethod
    def of_header(cls, header: bytes) -> Self:
        """The shard a header describes; ValueError, KeyError or TypeError for anything else."""
        fields = json.loads(header)["__metadata__"]
        numbers = {name: int(fields.pop(name)) for name in ("checkpoint", "first", "last")}
        return cls(**numbers, **fields)

    def header(self, width: int, dtype: RowType) -> bytes:
        """The bytes of the file before its rows."""
        n_bytes = self.n_rows * width * ITEM_SIZE[dtype]
        shape = [self.n_rows, width]
        rows = {"dtype": _SAFETENSORS[dtype], "shape": shape, "data_offsets": [0, n_bytes]}
        fields = {name: str(value) for name, value in asdict(self).items()}
        text = json.dumps({"__metadata__": fields, "rows": rows}).encode()
        size = -(-(len(text) + 8) // HEADER_SIZE) * HEADER_SIZE - 8
        return size.to_bytes(8, "little") + text.ljust(size)

    def sealed(self, width: int, dtype: RowType, rows: memoryview) -> Self:
        """The same with the checksum that these rows give it."""
        blank = replace(self, checksum="0" * 8)
        checksum = zlib.crc32(rows, zlib.crc32(blank.header(width, dtype)))
        return replace(self, checksum=f"{checksum:08x}")


def write_shard(path: Path, shard: Shard, values: torch.Tensor, dtype: RowType) -> Shard:
    """Writes rows, shape (n_rows, width) and already of this dtype; returns the sealed shard."""
    content, width = _bytes_of(values), values.shape[1]
    shard = shard.sealed(width, dtype, content)
    write_file(path, shard.header(width, dtype), content)
    return shard


def map_shard(path: Path, width: int, dtype: RowType) -> tuple[Shard, torch.Tensor] | None:
    """A shard and its memory-mapped rows, shape (n_rows, width); None if absent or damaged.

    The header and the size are checked, the rows are not: see `intact_shard`. The mapping is
    private: writing to the tensor changes no file, and replacing the file does not change the
    tensor.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little") + 8
            if not 8 < size <= os.fstat(file.fileno()).st_size:
                return None
            raw = file.read(size - 8)
            shard = Shard.of_header(raw)
            n_items = shard.n_rows * width
            whole = size + n_items * ITEM_SIZE[dtype]
            if os.fstat(file.fileno()).st_size != whole or n_items <= 0:
                return None
            if shard.header(width, dtype)[8:] != raw:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    rows = torch.frombuffer(mapped, dtype=_TORCH[dtype], count=n_items, offset=size)
    return shard, rows.view(shard.n_rows, width)


def intact_shard(path: Path, width: int, dtype: RowType) -> Shard | None:
    """What a shard says of itself, if all of it is read and its checksum is right."""
    found = map_shard(path, width, dtype)
    if found is None:
        return None
    shard, rows = found
    return shard if shard == shard.sealed(width, dtype, _bytes_of(rows)) else None


def _bytes_of(rows: torch.Tensor) -> memoryview:
    return rows.contiguous().view(torch.uint8).numpy().data.cast("B")


def as_rows(values: torch.Tensor, dtype: RowType) -> torch.Tensor:
    """Values on the CPU and in the type they are stored in."""
    return values.detach().to("cpu", _TORCH[dtype])


def empty_rows(n_rows: int, width: int, dtype: RowType) -> torch.Tensor:
    return torch.empty((n_rows, width), dtype=_TORCH[dtype])


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a file so that it is there either completely, or as it was before."""
    owner = f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    part = path.with_name(f".{path.name}.{owner}.part")
    try:
        with part.open("xb") as file:
            for content in parts:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def is_part(name: str) -> bool:
    """Whether this is the name of a file that `write_file` has not completed."""
    return _PART.fullmatch(name) is not None


def remove_abandoned(folder: Path) -> None:
    """Removes incomplete files whose writer, a process of this host, is gone, where it may."""
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _PART.fullmatch(path.name)
        if found and found["host"] == socket.gethostname() and _is_gone(int(found["pid"])):
            with suppress(OSError):  # a finished store may be read-only
                path.unlink()


def _is_gone(pid: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is not harmless
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
