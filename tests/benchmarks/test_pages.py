"""The benchmark of report pages measures a page that was made, and opened where it can be."""

import shutil

import pytest

pytest.importorskip("plotly")

from benchmarks.pages import measured


def test_a_small_page_is_measured():
    found = measured(400, 5, seed=0)
    assert 0 < found["beyond plotly"] < found["page"] < 20
    assert found["report / explain_top"] == found["report"] / found["explain_top"]
    assert (found["next query"] is None) == (shutil.which("chromium") is None)
