"""What is no ordinary file stays as it is, and links and permissions are kept."""

import os
import stat
import sys

import numpy as np
import pytest

from influence import storage
from influence.errors import StorageError
from influence.report.page import check_writable, write
from influence.tables import together
from tests.influence.report.pages import table_page

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no such files")


def to_folder(path):
    with together(path.parent) as part:
        (part / "a first file").write_text("new")
        (part / path.name).write_text("new")


WRITERS = {
    "page": lambda path: write(path, table_page()),
    "result": lambda path: storage.write(path, "numbers", {}, x=np.arange(3)),
    "folder": to_folder,
}
writers = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())


@writers
def test_a_pipe_is_not_replaced(writer, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(StorageError, match="Not an ordinary file"):
            writer(path)
        with pytest.raises(StorageError, match=r"can be written.*Not an ordinary file"):
            check_writable(path)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


@writers
def test_a_link_stays_and_its_file_is_written(writer, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").write_text("old")
    for name in ("old", "none yet"):
        link, target = tmp_path / f"to {name}", tmp_path / "there" / name
        link.symlink_to(target)
        writer(link)
        assert link.is_symlink() and not target.is_symlink()
        assert target.read_bytes() != b"old" and target.stat().st_size
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"old", "none yet"}


@writers
def test_links_in_a_circle_are_refused(writer, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StorageError, match="Too many levels"):
        writer(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@writers
def test_a_file_that_may_not_be_written_stays(writer, tmp_path, monkeypatch):
    path = tmp_path / "kept"
    path.write_text("old")
    path.chmod(0o444)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write it
    for attempt in (writer, check_writable):
        with pytest.raises(StorageError, match="Permission denied"):
            attempt(path)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


@writers
@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_permissions_are_kept(writer, mode, tmp_path):
    path = tmp_path / "private"
    path.write_text("old")
    path.chmod(mode)
    writer(path)
    assert path.read_bytes() != b"old" and stat.S_IMODE(path.stat().st_mode) == mode
