"""The main job on made-up facts: a model learns them, is asked, and its answers are traced back."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.checks import check_whole
from influence.cli import Found
from influence.detection import label_noise_curve
from influence.errors import MissingPackageError
from influence.report import write
from influence.report.page import check_writable
from llm_influence.bm25 import BM25
from llm_influence.facts_model import Trained, answers_right, encoded, train
from llm_influence.reporting import report_page
from llm_influence.run import CheckpointRun, trace
from llm_influence.tracin import TracIn

TITLE = "Which sentences taught a small GPT its answers?"
WRONG = 0.2  # share of the facts that one more document states wrongly
RECALLED = (4, 10)
ON_PAGE = 20  # questions
INSPECTED = (0.02, 0.05, 0.1, 0.2)

REPORT = """\
A GPT of {n_parameters:,} parameters read {n_documents} sentences about made-up people (each fact
in 4 phrasings; {n_wrong} sentences state something false), practised on {n_practice} questions
about some of them, and answers {right:.0%} of {n_questions} questions about the others.
{covered:.0%} of its parameters are covered; gradients are within {error:.0e} of autograd's.

Which sentences taught it the answers? Share of each answer's true sources among the first:

{recall}

{prompt} {completion}

{shown}

  * = states this fact.  Influence is the change of the answer's loss if the sentence had been left
  out, up to scale: positive = proponent. In the first sentence, token by token:

{tokens}

Reading the sentences of largest self-influence first finds those that state something false:

{noise}

Next: influence llm build --model DIR --data train.jsonl --store DIR"""


def quickstart(seed: int = 0, page: str | None = None, progress: bool = True) -> Found:
    """Trains a small GPT on made-up facts, asks it, and finds the sources of its answers.

    Args:
        seed: Seed of the facts, the weights and the batches.
        page: File of a page about the questions; None for none.
        progress: Show bars.

    Raises:
        MissingPackageError: The generator of facts is not there: it comes with the repository.
    """
    check_whole("seed", seed)
    if page is not None:
        check_writable(page)
    made = generator()
    facts = made.made_up_facts(seed=seed, wrong=WRONG)
    tokenizer = made.word_tokenizer(facts.texts())
    trained = train(tokenizer, facts.documents, facts.practice, seed=seed, progress=progress)
    asked = [encoded(tokenizer, pair["prompt"], pair["completion"]) for pair in facts.questions]
    run = trace(trained.model, trained.examples, checkpoints=trained.checkpoints, batch_size=32)
    estimators: dict[str, Any] = {
        "TracIn(metric='adam', whiten=0.1)": TracIn(metric="adam", whiten=0.1),
        "TracIn()": TracIn(),
        "BM25()": BM25(),
    }
    found = {
        name: one.fit(run, progress=progress).explain(asked, progress=progress)
        for name, one in estimators.items()
    }
    best, explained = next(iter(estimators.values())), next(iter(found.values()))
    suspicion = best.self_influence(progress=progress)[: len(facts.documents)]
    top = np.argsort(-explained.values[:, 0])[:5]
    of_tokens = best.tokens(asked[:1], [int(top[0])]).of_train[0]
    ids = trained.examples[top[0]]["input_ids"]
    document = {
        "provenance": asdict(explained.provenance),
        "queries": [{"query": 0, **facts.questions[0]}],
        "results": _ranked(explained.values[:, 0], top, trained, tokenizer),
        "tokens": _tokens(of_tokens, ids, int(top[0]), tokenizer),
        "recall": _recall({name: one.values for name, one in found.items()}, facts.sources),
        "noise": label_noise_curve(suspicion, np.asarray(facts.wrong), INSPECTED),
    }
    text = _text(facts, trained, run, document)
    if page is None:
        return Found(text, document)
    shown, _ = report_page(
        best, asked, tokenizer=tokenizer, max_queries=ON_PAGE, title=TITLE,
        progress=progress,
    )  # fmt: skip
    return Found(text, document, lambda: [write(page, shown)])


def _text(facts: Any, trained: Trained, run: CheckpointRun, document: dict[str, Any]) -> str:
    """What people read of it."""
    first, recall = facts.questions[0], document["recall"].set_index("method").rename_axis(None)
    return REPORT.format(
        n_parameters=sum(p.numel() for p in trained.model.parameters()),
        n_documents=len(facts.documents),
        n_wrong=len(facts.wrong),
        n_practice=len(facts.practice),
        right=answers_right(trained, facts.questions).mean(),
        n_questions=len(facts.questions),
        covered=run.coverage.share,
        error=run.coverage.worst,
        recall=recall.to_string(float_format=lambda x: f"{x:.0%}"),
        prompt=first["prompt"],
        completion=first["completion"].strip(),
        shown=_shown(document["results"], facts.sources[0]),
        tokens=_by_token(document["tokens"]),
        noise=document["noise"].to_string(index=False, float_format=lambda x: f"{x:.0%}"),
    )


def generator() -> Any:
    """The module `facts` of the repository's folder of data sets."""
    folder = Path(__file__).parents[1] / "datasets"
    if not (folder / "facts.py").is_file():
        raise MissingPackageError(
            f"The quickstart needs the generator of facts, expected at {folder / 'facts.py'}; it "
            "comes with the repository: run this in a clone."
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module("facts")


def _recall(
    values: dict[str, NDArray[np.float64]], sources: Sequence[Sequence[int]]
) -> pd.DataFrame:
    """Mean over questions of the share of its sources among the k strongest proponents."""
    rows = {}
    for name, of_method in values.items():
        order = np.argsort(-of_method, axis=0, kind="stable")
        rows[name] = {
            f"recall@{k}": np.mean(
                [len({*order[:k, j]} & {*true}) / len(true) for j, true in enumerate(sources)]
            )
            for k in RECALLED
        }
    return pd.DataFrame(rows).T.rename_axis("method").reset_index()


def _ranked(
    values: NDArray[np.float64], top: NDArray[np.int64], trained: Trained, tokenizer: Any
) -> pd.DataFrame:
    """The strongest proponents of the first question."""
    ids = [trained.examples[i]["input_ids"] for i in top]
    columns = {
        "query": 0,
        "side": "proponent",
        "rank": range(1, len(top) + 1),
        "train": top,
        "influence": values[top],
        "text": [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in ids],
    }
    return pd.DataFrame(columns)


def _tokens(
    parts: NDArray[np.float64], ids: Sequence[int], train: int, tokenizer: Any
) -> pd.DataFrame:
    """The tokens of a training example, with their influence on the first question."""
    columns = {
        "query": 0,
        "train": train,
        "token": range(len(ids)),
        "text": [tokenizer.decode([token]) for token in ids],
        "influence": parts,
    }
    return pd.DataFrame(columns)


def _shown(ranked: pd.DataFrame, sources: Sequence[int]) -> str:
    return "\n".join(
        f"{'*' if one['train'] in sources else ' '} {one['influence']:+9.3g}  {one['text']}"
        for one in ranked.to_dict("records")
    )


def _by_token(tokens: pd.DataFrame) -> str:
    return "\n".join(
        f"  {one['influence']:+9.3g}  {one['text']}" for one in tokens.to_dict("records")
    )
