"""The file of a page: what it holds, what it refuses, and that nothing in it can run."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from influence.errors import InputError, MissingPackageError, StorageError
from influence.report import Answer, Figure, Page, Rows, Suspects, Text, write
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
    one = Rows(pd.Index([text], dtype=object), pd.DataFrame({"loss": [1.0]}))
    page = table_page(queries=one, answers=[Answer([], [])])
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


def test_parts_of_a_page_fit_each_other():
    one, frame = pd.Index(["a"]), pd.DataFrame({"loss": [1.0]})
    for parts in ({"facts": frame[:0]}, {"features": frame[:0]}, {"texts": [Text(["a"])] * 2}):
        with pytest.raises(InputError, match=f"Expected {next(iter(parts))} of 1 rows"):
            Rows(one, **{"facts": frame, **parts})
    rows = Rows(one, frame)
    with pytest.raises(InputError, match="an answer for each of 1 queries, got 0"):
        Page("No answers", {}, queries=rows, train=rows)
    with pytest.raises(InputError, match="got train=None"):
        Page("No rows", {}, queries=rows, answers=[Answer([], [])])
    with pytest.raises(InputError, match="got train=None"):
        Page("No rows", {}, suspects=Suspects([0], "Strange."))
    for parts in (
        {"queries": rows, "answers": [Answer([], [(1, -0.5)])]},
        {"suspects": Suspects([-1], "Strange.")},
    ):
        with pytest.raises(InputError, match="positions below 1"):
            Page("Other rows", {}, train=rows, **parts)


def test_infinite_features_are_not_missing():
    features = pd.DataFrame({"x": [np.inf, -np.inf, np.nan], "y": ["inf", None, 1.5]})
    rows = Rows(pd.RangeIndex(3), pd.DataFrame({"loss": [np.inf] * 3}), features).payload()
    assert rows["features"]["rows"] == [["inf", "inf"], ["-inf", None], [None, 1.5]]
    assert rows["facts"]["rows"] == [[None]] * 3


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


def test_what_hinders_a_file_is_said_in_the_users_words(tmp_path):
    with pytest.raises(StorageError, match="No such file or directory") as told:
        check_writable(tmp_path / "none" / "page.html")
    assert str(tmp_path / "none") in str(told.value) and ".part" not in str(told.value)
    for folder in ("", ".", tmp_path):
        with pytest.raises(StorageError, match="add a file's name"):
            check_writable(folder)
    for length in (100, 241, 250, 260):
        path = tmp_path / f"{'x' * length}.html"
        try:
            check_writable(path)
        except StorageError as error:
            assert length > 200 and "File name too long" in str(error)
        else:
            assert write(path, figure_page()) == path, "it was said to be writable"


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
