"""Pages in a headless Chromium, every view clicked through."""

import csv
import io

import numpy as np
import pytest

from influence.report import write
from tests.browser import LOOKS, look_through, opened
from tests.influence.report.pages import MARKUP, figure_page, table_page, text_page

PAGES = {"table": table_page, "text": text_page, "figure": figure_page}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {name: write(folder / f"{name}.html", make()) for name, make in PAGES.items()}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("size", "dark"), LOOKS)
def test_every_view_opens_and_can_be_read(browser, files, name, size, dark):
    look_through(browser, files[name], name, size, dark)


def test_a_query_shows_the_rows_behind_it(browser, files):
    with opened(browser, files["table"]) as page:
        page.get_by_role("button", name="2", exact=True).click()
        detail = page.locator(".detail")
        assert "Query 2" in detail.inner_text()
        rows = detail.locator(".side.helpful tbody tr")
        assert rows.count() == 12
        assert rows.first.inner_text().split("\t")[1].strip() == "row-2"
        assert "+1" in rows.first.inner_text()
        beside = detail.locator("table.beside")
        assert beside.locator("tbody tr").count() == 2
        assert beside.locator("td.agrees").count() > 0
        assert "missing" in beside.inner_text()
        assert page.url.endswith("#query-2")
        assert "3 most helpful\tno" in detail.inner_text()


def test_text_of_the_users_is_never_markup(browser, files):
    for name in ("table", "text"):
        with opened(browser, files[name]) as page:
            assert page.title() != "run"
            assert page.locator("main b").count() == 0
            assert MARKUP in page.locator("main").inner_text()


def test_search_filter_and_sorting(browser, files):
    with opened(browser, files["table"]) as page:
        rows = page.locator(".list tbody tr")
        assert rows.count() == 3
        page.get_by_label("only mistakes").check()
        assert rows.count() == 2
        page.get_by_label("only mistakes").uncheck()
        page.get_by_role("tab", name="Training rows").click()
        page.keyboard.press("/")
        page.keyboard.type("row-1")
        assert rows.count() == 11
        page.get_by_role("searchbox").fill("")
        head = page.get_by_role("columnheader", name="self-influence")
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert "row-0" in rows.first.inner_text()
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert "row-29" in rows.first.inner_text()
        page.get_by_label("only those the model would label otherwise").check()
        assert rows.count() == 15


def test_keys(browser, files):
    with opened(browser, files["table"]) as page:
        page.keyboard.press("j")
        assert "Query 1" in page.locator(".detail").inner_text()
        page.keyboard.press("k")
        assert "Query 0" in page.locator(".detail").inner_text()
        page.keyboard.press("2")
        assert (
            page.get_by_role("tab", name="Training rows").get_attribute("aria-selected") == "true"
        )
        page.keyboard.press("t")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.keyboard.press("?")
        assert page.get_by_role("dialog").is_visible()


def test_the_selection_is_exported(browser, files):
    with opened(browser, files["table"]) as page:
        page.get_by_role("tab", name="Training rows").click()
        page.get_by_label("Select row-3", exact=True).check()
        page.get_by_label("Select row-5", exact=True).check()
        with page.expect_download() as download:
            page.locator("button.csv").click()
        text = download.value.path().read_text(encoding="utf-8")
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ["row", "target", "prediction", "says without it", "self-influence", "total"]
    assert [row[0] for row in rows] == ["row-3", "row-5"]
    assert rows[0][1] == MARKUP  # a comma or a tag in a cell stays in it


def test_tokens_are_marked(browser, files):
    with opened(browser, files["text"]) as page:
        helpful, harmful = page.locator(".card").all()
        assert helpful.locator(".for").inner_text() == "cat "
        assert helpful.locator(".against").inner_text() == "sat"
        assert helpful.locator(".for").get_attribute("title") == "+1"
        assert helpful.locator(".special").inner_text() == "<end>"
        assert "1,234 tokens before this are not shown" in harmful.inner_text()
        box = harmful.locator(".text")
        folded = box.bounding_box()["height"]
        harmful.get_by_role("button", name="Show all of it").click()
        assert box.bounding_box()["height"] > 1.5 * folded


def test_the_chosen_example_marks_the_query(browser, files):
    with opened(browser, files["text"]) as page:
        asked = page.get_by_role("region", name="The query")
        assert asked.inner_text() == "Where is it? There.<end>"
        assert asked.locator(".prompt").all_inner_texts() == ["Where ", "is it?"]
        assert asked.locator(".for").inner_text().strip() == "There."
        page.get_by_role("button", name="1. example long").click()
        assert asked.locator(".for").count() == 0
        assert asked.locator(".against").inner_text() == "Where "
        assert "example long" in page.get_by_role("status").all_inner_texts()[-1]


def test_texts_are_searched_and_listed(browser, files):
    with opened(browser, files["text"]) as page:
        page.get_by_role("tab", name="Training examples").click()
        rows = page.locator(".list tbody tr")
        assert "long" in rows.first.inner_text() and "word word" in rows.first.inner_text()
        assert "300" not in rows.first.inner_text()
        rows.nth(1).click()
        assert MARKUP in page.locator(".detail .text").inner_text()


def test_a_long_page_stays_quick(browser, tmp_path):
    path = write(tmp_path / "long.html", table_page(n_queries=3000, n_train=4000))
    with opened(browser, path) as page:
        took = page.evaluate(
            """() => { const begun = performance.now();
            document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}));
            return performance.now() - begun; }"""
        )
        assert page.locator(".list tbody tr").count() == 200, "a long list is drawn in parts"
        assert page.get_by_role("button", name="Show more (200 of 3000)").is_visible()
        assert took < 2000


def test_focus_stays_on_what_was_ticked_or_picked(browser, files):
    with opened(browser, files["table"]) as page:
        focused = "document.activeElement.closest('tr')?.dataset.key"
        page.get_by_label("Select 1", exact=True).focus()
        page.keyboard.press("Space")
        assert page.get_by_label("Select 1", exact=True).is_checked()
        assert page.evaluate(focused) == "1"
        page.get_by_role("button", name="2", exact=True).focus()
        page.keyboard.press("Enter")
        assert "Query 2" in page.locator(".detail").inner_text()
        assert page.evaluate(focused) == "2"
        assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
        page.get_by_label("only mistakes").focus()
        page.keyboard.press("Space")
        page.keyboard.press("k")
        assert "Query 1" in page.locator(".detail").inner_text(), "a box takes no text"


def test_all_is_ticked_where_all_is_selected(browser, files):
    with opened(browser, files["table"]) as page:
        page.get_by_role("tab", name="Training rows").click()
        every, count = page.get_by_label("Select all shown").first, page.get_by_role("status").first
        page.get_by_role("searchbox").fill("row-1")
        every.check()
        assert count.inner_text() == "11 of 30, 11 selected"
        page.get_by_label("Select row-1", exact=True).uncheck()
        assert not every.is_checked() and every.evaluate("box => box.indeterminate")
        page.get_by_role("searchbox").fill("")
        assert count.inner_text() == "30 of 30, 10 selected"
        page.get_by_role("searchbox").fill("row-12")
        assert every.is_checked()
        page.get_by_role("searchbox").fill("nothing")
        assert not every.is_checked() and count.inner_text() == "0 of 30, 10 selected"


def test_numbers_are_neither_right_nor_wrong(browser, tmp_path):
    path = write(tmp_path / "numbers.html", table_page(classes=False))
    with opened(browser, path) as page:
        assert page.get_by_label("only mistakes").count() == 0
        page.get_by_role("tab", name="Training rows").click()
        assert page.get_by_label("only those the model would label otherwise").count() == 0


def test_only_numbers_with_an_order_are_higher_or_lower(browser, tmp_path, files):
    assert "lower" in page_marks(browser, files["table"])
    path = write(tmp_path / "codes.html", table_page(spreads=np.array([np.nan, np.nan])))
    assert page_marks(browser, path) == {"agrees", "differs"}


def page_marks(browser, path):
    """How features compare with those of a query, in words."""
    with opened(browser, path) as page:
        marks = page.locator("table.beside .mark")
        return set(marks.evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))"))
