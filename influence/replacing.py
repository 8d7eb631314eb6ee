"""Files that take their place only once they are complete."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from influence.errors import StorageError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file to write, which then takes the place of the one that a path leads to.

    Links stay links, and a file that is replaced hands on its permissions.

    Raises:
        StorageError: The file cannot be written, or what is there is no file or is read-only.
    """
    try:
        target = replaceable(path)
        part = beside(target)
        try:
            yield part
            if target.exists():
                shutil.copymode(target, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"Could not write {path}: {error.strerror or error}.") from error


def replaceable(path: str | os.PathLike[str]) -> Path:
    """What a path leads to: nothing yet, or a file that may be replaced.

    Raises:
        OSError: It is no such place, with the reason.
    """
    target = Path(os.path.realpath(path))
    try:
        kind = Path(path).stat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "Not an ordinary file")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target


def beside(target: Path) -> Path:
    """A name in the same folder for a file that is not yet complete."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
