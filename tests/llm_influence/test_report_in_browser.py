"""The page of a small model of real questions and answers, in a headless Chromium.

TOFU's questions are about authors who do not exist, so that a model knows of them by its training
alone. Pictures go to build/screenshots.
"""

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("transformers")
pytest.importorskip("plotly")
pytest.importorskip("playwright")

from llm_influence import Kronecker, TracIn, encode, report, trace
from llm_influence.facts_model import train
from tests.browser import LOOKS, look_through, opened
from tests.llm_influence.small_tokenizers import bpe

N_AUTHORS, OF_EACH, HELD = 3, 20, 1


@pytest.fixture(scope="module")
def made(data_folder, tmp_path_factory):
    """The page's file, the questions, and what `explain` says of them."""
    path = data_folder / "datasets" / "text" / "tofu" / "forget10.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[: N_AUTHORS * OF_EACH]
    pairs = pd.DataFrame(
        [
            {"prompt": one["question"], "completion": f" {one['answer']}", "author": one["author"]}
            for one in map(json.loads, lines)
        ]
    )
    pairs.index = pd.Index([f"author {one.author}, {i}" for i, one in pairs.iterrows()])
    asked = pairs.groupby("author").tail(HELD)
    rest = pairs.drop(asked.index)
    tokenizer = bpe(texts=[*pairs["prompt"], *pairs["completion"]], n_tokens=700)
    trained = train(tokenizer, [], rest.to_dict("records"), width=32, n_layers=1, n_steps=60)
    run = trace(trained.model, encode(rest, tokenizer))
    estimator = TracIn(Kronecker(8)).fit(run, progress=False)
    target = tmp_path_factory.mktemp("tofu") / "page.html"
    questions = encode(asked, tokenizer)
    top = report(target, estimator, questions, tokenizer=tokenizer, progress=False)
    return target, asked, run.losses(questions), top


@pytest.mark.parametrize(("size", "dark"), LOOKS)
def test_every_view_can_be_read(browser, made, size, dark):
    look_through(browser, made[0], "tofu", size, dark)


def test_the_question_and_the_examples_behind_it_are_there(browser, made):
    path, asked, losses, top = made
    first = int(np.argmax(losses))
    with opened(browser, path) as page:
        region = page.get_by_role("region", name="The query")
        own, answer = asked.iloc[first], region.locator("span:not(.prompt):not(.special)")
        assert region.locator(".prompt").all_inner_texts() != []
        assert "".join(answer.all_text_contents()) == own["completion"]
        assert "".join(region.locator(".prompt").all_text_contents()) == own["prompt"]
        names = [text[3:] for text in page.locator(".helpful .choose").all_inner_texts()]
        wanted = top.proponents()
        assert names == [
            f"example {label}" for label in wanted["train"][wanted["query"] == asked.index[first]]
        ]
        before = region.inner_html()
        page.locator(".helpful .choose").nth(1).click()
        assert page.locator(".card.chosen .choose").inner_text() == f"2. {names[1]}"
        assert region.inner_html() != before, "another example acts on other tokens"
