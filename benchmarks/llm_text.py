"""Influence on real text with a pretrained model: whose questions, and which corpus.

    INFLUENCE_DATA=/path/to/data python -m benchmarks.llm_text

stories260K, a Llama of 260,032 parameters pretrained on children's stories, is tuned with AdamW
and asked which training examples taught it. There is no retraining here: a proponent is right if
it is of the query's own kind.

- **Authors**: questions and answers about the 20 made-up authors of TOFU (forget10), 18 of each to
  train on and 2 held out as queries; answers are learned, questions are not. Right are the 18
  answers about the query's author. Precision@k is their share among the k strongest proponents,
  recall@18 how many of them are among the first 18 (the same number as precision@18).
  "Name hidden" asks the same queries without the words of the author's name.
- **Corpora**: sequences of Shakespeare, WikiText-2 (its validation part) and Grimm's tales, mixed;
  held-out sequences of each are queries. Right are the sequences of the query's corpus.

The authors' names stand in most questions and answers, and WikiText's markup in most of its
sequences, so BM25 is hard to beat here; these are checks of what a method finds, not of effects.

"@k" is precision@k, a mean over queries, in the first column with its 95 % bootstrap interval over
queries. Costs are CPU seconds of fit and explain, one thread. Writes
benchmarks/results/llm_text.json and the tables of benchmarks/README.md.
"""

import copy
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.tables import markdown, replace_part
from influence.errors import InputError
from llm_influence import (
    BM25,
    TRAK,
    Checkpoint,
    EmbeddingSimilarity,
    Random,
    RepresentationSimilarity,
    TracIn,
    encode,
    trace,
)
from llm_influence.losses import causal_lm
from llm_influence.tokens import TokenExamples

HERE = Path(__file__).parent
Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

# Of every estimator: whether it is asked over all checkpoints, or the last alone.
ENTRIES: dict[str, tuple[Callable[[], Any], bool]] = {
    "Random": (lambda: Random(), False),
    "BM25": (lambda: BM25(), False),
    "BM25, 4-grams": (lambda: BM25(ngram=4), False),
    "EmbeddingSimilarity": (lambda: EmbeddingSimilarity(), False),
    "RepresentationSimilarity": (lambda: RepresentationSimilarity(), False),
    "TracIn()": (lambda: TracIn(), False),
    "TracIn(normalise='unit')": (lambda: TracIn(normalise="unit"), False),
    "TracIn(), 4 checkpoints": (lambda: TracIn(), True),
    "TracIn(metric='adam', whiten=1), 4": (lambda: TracIn(metric="adam", whiten=1.0), True),
    "TracIn(normalise='unit', metric='adam', whiten=1), 4": (
        lambda: TracIn(normalise="unit", metric="adam", whiten=1.0), True,
    ),
    "TRAK": (lambda: TRAK(), False),
}  # fmt: skip
BETAS = (0.9, 0.99)
NAMES = (
    "Hsiao Yun-Hwa", "Carmen Montenegro", "Elvin Mammadov", "Rajeev Majumdar",
    "Jad Ambrose Al-Shamary", "Adib Jarrah", "Ji-Yeon Park", "Behrouz Rohani", "Wei-Jun Chen",
    "Tae-ho Park", "Hina Ameen", "Xin Lee Williams", "Moshe Ben-David", "Kalkidan Abera",
    "Takashi Nakamura", "Raven Marais", "Aysha Al-Hashim", "Edward Patrick Sullivan",
    "Basil Mahfouz Al-Kuwaiti", "Nikolai Abilov",
)  # of the authors of forget10, in order  # fmt: skip


@dataclass(frozen=True)
class Tuning:
    """How the model is tuned."""

    n_epochs: int
    peak: float = 1e-3
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Case:
    """Training examples and queries, each with its kind: an author, or a corpus.

    Attributes:
        train: Training examples.
        kinds: The kind of each, shape (n_train,).
        queries: Queries by the name of the way they are asked.
        asked: The kind of each query, shape (n_queries,); the same in every way.
    """

    train: TokenExamples
    kinds: Labels
    queries: Mapping[str, TokenExamples]
    asked: Labels


def authors(folder: Path, tokenizer: Any, n_authors: int = 20, n_held: int = 2) -> Case:
    """TOFU's questions and answers; of every author `n_held` drawn ones are queries."""
    lines = (folder / "tofu" / "forget10.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["author"] < n_authors]
    rng = np.random.default_rng(0)
    kinds = np.array([record["author"] for record in records])
    held = np.concatenate(
        [rng.choice(np.nonzero(kinds == k)[0], n_held, replace=False) for k in range(n_authors)]
    )
    kept = np.setdiff1d(np.arange(len(records)), held)
    hidden = [without(records[i], NAMES[records[i]["author"]]) for i in held]

    def encoded(chosen: Sequence[Mapping[str, str]]) -> TokenExamples:
        pairs = [{"prompt": r["question"], "completion": f" {r['answer']}"} for r in chosen]
        return encode(pairs, tokenizer)

    queries = {"as asked": encoded([records[i] for i in held]), "name hidden": encoded(hidden)}
    return Case(encoded([records[i] for i in kept]), kinds[kept], queries, kinds[held])


def without(record: Mapping[str, Any], name: str) -> dict[str, str]:
    """Question and answer with every word of a name taken out."""
    pattern = re.compile(r"\s*\b(" + "|".join(map(re.escape, name.split())) + r")\b")
    return {key: pattern.sub("", record[key]).strip() for key in ("question", "answer")}


def corpora(
    folder: Path, tokenizer: Any, n_train: int = 100, n_queries: int = 20, length: int = 128
) -> Case:
    """Sequences of tokens of three texts, `n_train` and `n_queries` of each, none overlapping."""
    files = ("tinyshakespeare/input.txt", "wikitext-2/valid.txt", "grimm/tales.txt")
    rng = np.random.default_rng(0)
    n = n_train + n_queries
    train, queries = [], []
    for file in files:
        text = (folder / file).read_text(encoding="utf-8")
        text = text[len(text) // 20 : -len(text) // 20]  # without title pages and licences
        parts = [text[i : i + 4 * length] for i in range(0, len(text) - 4 * length, 4 * length)]
        ids = [tokenizer(parts[i])["input_ids"][:length] for i in rng.permutation(len(parts))[:n]]
        train += ids[:n_train]
        queries += ids[n_train:]
    return Case(
        TokenExamples.of_columns({"input_ids": train}),
        np.repeat(np.arange(3), n_train),
        {"as asked": TokenExamples.of_columns({"input_ids": queries})},
        np.repeat(np.arange(3), n_queries),
    )


def tuned(model: nn.Module, train: TokenExamples, tuning: Tuning) -> list[Checkpoint]:
    """Trains the model in place; four checkpoints, each with its rates and second moments.

    AdamW; the rate rises over the first tenth of the steps and falls to a tenth of its peak.
    """
    named = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(named.values(), tuning.peak, betas=BETAS, weight_decay=0.01)
    rng = np.random.default_rng(tuning.seed)
    n, size = train.n_queries, tuning.batch_size
    epochs = [rng.permutation(n) for _ in range(tuning.n_epochs)]
    order = [epoch[i : i + size] for epoch in epochs for i in range(0, n, size)]
    kept_at = {math.ceil(len(order) * quarter / 4) for quarter in (1, 2, 3, 4)}
    checkpoints: list[Checkpoint] = []
    moved = 0.0
    for step, rows in enumerate(order, start=1):
        rate = tuning.peak * min(1, 10 * step / len(order)) * (1 - 0.9 * (step - 1) / len(order))
        moved += rate
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        causal_lm(model, train.batch(rows)).mean().backward()
        optimizer.step()
        if step in kept_at:
            correction = 1 - BETAS[1] ** step
            squares = {k: optimizer.state[p]["exp_avg_sq"] / correction for k, p in named.items()}
            weights = {k: v.clone() for k, v in model.state_dict().items()}
            checkpoints.append(Checkpoint(weights, moved / n, squares, f"step {step}"))
            moved = 0.0
    model.eval()
    return checkpoints


def found(values: Floats, kinds: Labels, asked: Labels) -> NDArray[np.bool_]:
    """Whether each query's proponents, strongest first, are of its kind: (n_train, n_queries)."""
    order = np.argsort(-values, axis=0, kind="stable")
    return kinds[order] == asked


def precision(right: NDArray[np.bool_], k: int) -> Floats:
    """Share of right ones among the k strongest proponents, shape (n_queries,)."""
    return right[:k].mean(axis=0)


def summary(each: Floats, n: int = 2000) -> list[float]:
    """The mean over queries, and the ends of its 95 % bootstrap interval."""
    picked = np.random.default_rng(0).integers(len(each), size=(n, len(each)))
    low, high = np.quantile(each[picked].mean(axis=1), [0.025, 0.975])
    return [round(float(x), 4) for x in (each.mean(), low, high)]


def judged(case: Case, model: nn.Module, tuning: Tuning, ks: Sequence[int]) -> dict[str, Any]:
    """Tunes a copy of the model and asks every estimator; precisions at `ks`, and costs."""
    model = copy.deepcopy(model)
    before = _losses(model, case)
    begun = time.process_time()
    checkpoints = tuned(model, case.train, tuning)
    result: dict[str, Any] = {
        "train": case.train.n_queries, "queries": len(case.asked),
        "chance": float((case.kinds[:, None] == case.asked).mean()),
        "tuning, seconds": time.process_time() - begun,
        "losses before": before, "losses after": _losses(model, case), "estimators": {},
    }  # fmt: skip
    print(result, flush=True)
    for name, (make, everywhere) in ENTRIES.items():
        run = trace(model, case.train, checkpoints=checkpoints if everywhere else checkpoints[-1:])
        begun = time.process_time()
        estimator = make().fit(run, progress=False)
        told: dict[str, Any] = {}
        for way, queries in case.queries.items():
            right = found(estimator.explain(queries, progress=False).values, case.kinds, case.asked)
            told[way] = {f"@{k}": summary(precision(right, k)) for k in ks}
        result["estimators"][name] = told | {"seconds": time.process_time() - begun}
        print(name, result["estimators"][name], flush=True)
    return result


def _losses(model: nn.Module, case: Case) -> dict[str, float]:
    """Mean loss of the queries, in nats a token."""
    with torch.no_grad():
        return {
            way: causal_lm(model, queries.batch(range(queries.n_queries))).mean().item()
            for way, queries in case.queries.items()
        }


def table(result: Mapping[str, Any]) -> pd.DataFrame:
    """One line for each estimator, after the line of chance; intervals in the first column."""
    lines: list[dict[str, Any]] = []
    for name, told in result["estimators"].items():
        line: dict[str, Any] = {"estimator": name}
        for way in result["losses after"]:
            for k, (mean, low, high) in told[way].items():
                column = k if way == "as asked" else f"{way}, {k}"
                first = len(line) == 1
                line[column] = f"{mean:.2f}" + f" [{low:.2f}, {high:.2f}]" * first
        lines.append(line | {"seconds": told["seconds"]})
    columns = [column for column in lines[0] if column not in ("estimator", "seconds")]
    chance = {"estimator": "chance"} | dict.fromkeys(columns, f"{result['chance']:.2f}")
    return pd.DataFrame([chance, *lines])


def page(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    parts = [f"Measured with: {versions}, Python {sys.version.split()[0]}, one thread."]
    for name, told in results.items():
        losses = ", ".join(
            f"{told['losses before'][way]:.2f} to {after:.2f} ({way})"
            for way, after in told["losses after"].items()
        )
        parts.append(
            f"**{name}**: {told['train']} training examples, {told['queries']} queries; tuning "
            f"took {told['tuning, seconds']:.0f} s and took the loss of the queries, in nats a "
            f"token, from {losses}.\n\n{markdown(table(told))}"
        )
    return "\n\n".join(parts)


def main() -> None:
    root = os.environ.get("INFLUENCE_DATA")
    if not root:
        raise InputError("Expected the folder of data and models in INFLUENCE_DATA; set it.")
    sys.path.insert(0, str(HERE.parent / "datasets"))
    from stories import stories260k

    torch.set_num_threads(1)
    model, tokenizer = stories260k(Path(root) / "models" / "stories260K")
    texts = Path(root) / "datasets" / "text"
    results = {
        "Authors": judged(authors(texts, tokenizer), model, Tuning(4), (1, 5, 10, 18)),
        "Corpora": judged(corpora(texts, tokenizer), model, Tuning(3), (10,)),
    }
    (HERE / "results" / "llm_text.json").write_text(json.dumps(results, indent=1) + "\n")
    replace_part(HERE / "README.md", "llm text", page(results))


if __name__ == "__main__":
    main()
