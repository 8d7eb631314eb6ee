"""The file of a page: what it holds, what it refuses, and that nothing in it can run."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from influence.errors import InputError, MissingPackageError, StorageError
from influence.report import Figure, Page, Rows, write
from influence.report.page import as_json, check_writable, plain, render
from tests.influence.report.pages import MARKUP, content, figure_page, table_page


def test_a_page_holds_what_it_was_given(tmp_path):
    path = write(tmp_path / "page.html", table_page())
    held = content(path.read_text(encoding="utf-8"))
    assert held["about"] == [["method", "Mine"], ["sign", "positive helps"]]
    assert held["train"]["facts"]["rows"][1][0] == MARKUP
    assert held["train"]["features"]["rows"][2][0] is None  # NaN
    assert held["answers"][0]["without"][0]["losses"] == [2.1, None]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--", "]]>", "\u2028", "&amp;", "\ud800", "\0"]
)
def test_no_text_ends_the_script_it_stands_in(text, tmp_path):
    assert json.loads(as_json({"a": text})) == {"a": text}
    page = table_page(
        queries=Rows(pd.Index([text], dtype=object), pd.DataFrame({"loss": [1.0]})), answers=[]
    )
    write(tmp_path / "page.html", page)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(content(html)["queries"]["labels"]) == 1
    assert "alert(1)</script>" not in html


def test_markup_in_the_title_is_escaped():
    html = render(Page(MARKUP, {}, figures=figure_page().figures))
    assert "<title>&lt;script&gt;" in html and f"<h1>{MARKUP}" not in html


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.nan, None), (np.inf, None), (pd.NaT, None), (pd.NA, None), (None, None),
     (np.int64(3), 3), (2**60, str(2**60)), (np.float32(0.5), 0.5), (True, "True"),
     (pd.Timestamp("2026-01-02"), "2026-01-02 00:00:00"), ("x" * 400, "x" * 299 + "…")],
)  # fmt: skip
def test_a_value_as_the_page_holds_it(value, expected):
    assert plain(value) == expected


def test_a_report_of_nothing_is_refused():
    nothing = Rows(pd.Index([]), pd.DataFrame())
    with pytest.raises(InputError, match="queries to report on, got none"):
        table_page(queries=nothing, answers=[])
    with pytest.raises(InputError, match="something to report"):
        Page("Empty", {})


def test_a_figure_keeps_its_numbers():
    (held,) = [figure.payload() for figure in figure_page().figures]
    assert held["spec"]["data"][0]["x"] == [0.1, None]
    assert held["table"]["rows"] == [[0, 0.1, 0.2], [1, None, None]]
    assert isinstance(figure_page().figures[0], Figure)


def test_where_nothing_can_be_written_is_said_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "page.html", tmp_path / "file" / "page.html", tmp_path):
        with pytest.raises(StorageError, match="can be written"):
            check_writable(path)
        with pytest.raises(StorageError):
            write(path, table_page())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_page_that_was_there(tmp_path, monkeypatch):
    path = write(tmp_path / "page.html", table_page())
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(StorageError, match="full"):
        write(path, figure_page())
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(MissingPackageError, match=r"influence-toolkit\[report\]"):
        check_writable(tmp_path / "page.html")
