"""All of a recorded run on made-up villages: other orders predicted, one found, all really tried.

Every batch is about the people of one village, so that its place in training matters for what the
model knows of them at the end.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from influence.checks import check_whole
from influence.cli import Found
from influence.errors import MissingPackageError
from influence.report.page import check_writable
from influence.tables import make_folder
from llm_influence.encoding import encode
from llm_influence.order.curriculum import Curriculum, curriculum
from llm_influence.order.documents import of_curriculum, of_memorisation
from llm_influence.order.mean_field import MeanField
from llm_influence.order.memorisation import Memorisation, memorisation
from llm_influence.order.recorder import record
from llm_influence.order.reporting import order_report
from llm_influence.order.run import OptimizerRun
from llm_influence.order.train_file import Plan
from llm_influence.quickstart import generator

N_VILLAGES = 16  # batches, so steps
N_SENTENCES = 8  # of a batch
ASKED = 4  # villages that are asked about
PEOPLE = 4  # of a village
WIDTH, N_LAYERS, N_HEADS = 32, 2, 4
PLAN = Plan(batch_size=N_SENTENCES, rate=1e-3, schedule="linear", warmup=3)

REPORT = """\
A GPT of {n_parameters:,} parameters read {n_villages} batches in {n_steps} steps of AdamW; each
batch is {n_sentences} sentences about the people of one village. The question: {n_asked} unseen
sentences about the first {n_asked_villages} villages. Their mean loss after training is {loss:.4f}.
Repeating the recorded training gives the recorded weights {again}.

1. Predicted against real: what would other orders of the batches have done?
   {n_random} random orders were predicted, then really trained. Their effects on the loss run from
   {lowest:+.4f} to {highest:+.4f}.
   Rank agreement {spearman:.2f} [{low:.2f}, {high:.2f}]; slope {slope:.2f} (1 = right size).
   Beforehand, {calibration}.

2. A curriculum: the order of least predicted loss, found by assignment, then really trained.
   Places of the villages asked about: {places_before} as recorded, {places_found} as found.
   Effect predicted {predicted:+.4f}, real {real:+.4f}; best of the random orders {lowest:+.4f}.
   {verdict}

3. Memorisation: the loss of every batch by its own place, predicted.
   Steps since the batch   {since}
   Effect on its loss      {curve}
   {remark}
   Calibration on the batches' own losses: {own_calibration}.

{seconds:.0f} seconds. Pictures: {pictures}
Next: influence order record --model DIR --data train.jsonl --run DIR"""


@dataclass(frozen=True, eq=False)
class Villages:
    """A recorded run, and what is asked.

    Attributes:
        run: The run: batch i is about village i of the order of training.
        villages: The village of each distinct batch.
        queries: One batch of unseen sentences.
    """

    run: OptimizerRun
    villages: list[int]
    queries: list[Any]


def quickstart(
    folder: str, seed: int = 0, report: str | None = None, progress: bool = True
) -> Found:
    """Trains, predicts, searches, verifies and draws.

    Args:
        folder: Where pictures go.
        seed: Of the sentences, the weights and the orders.
        report: File of a page of all figures; None for none.
        progress: Show bars.

    Raises:
        MissingPackageError: The generator of sentences, which comes with the repository, is not
            there.
    """
    check_whole("seed", seed)
    make_folder(folder)
    if report is not None:
        check_writable(report)
    began = time.perf_counter()
    made = recorded_villages(seed)
    exact = MeanField(knots=None, curvature=None)  # its dearest settings: seconds here
    found = curriculum(made.run, made.queries, exact, seed=seed, anyway=True, progress=progress)
    known = memorisation(made.run, seed=seed, progress=progress)
    drawn = _draw(Path(folder), found, known)
    document = {
        "curriculum": of_curriculum(made.run, found),
        "memorisation": of_memorisation(made.run, known),
        "written": drawn if isinstance(drawn, list) else [],
    }
    pictures = ", ".join(map(str, drawn)) if isinstance(drawn, list) else f"none. {drawn}"
    text = _report(made, found, known, pictures, time.perf_counter() - began)
    if report is None:
        return Found(text, document)
    return Found(text, document, lambda: [order_report(report, found, known, run=made.run)])


def recorded_villages(seed: int) -> Villages:
    """Trains a small GPT-2 on a batch of each village, in a random order, and records it."""
    facts = generator()
    texts = [
        facts.made_up_facts(PEOPLE, seed=N_VILLAGES * seed + k, n_distractors=0).documents
        for k in range(N_VILLAGES)
    ]
    tokenizer = facts.word_tokenizer([text for village in texts for text in village])
    rows = [text for village in texts for text in village[:N_SENTENCES]]
    asked = [text for village in texts[:ASKED] for text in village[N_SENTENCES:][:N_SENTENCES]]
    model = _untrained(len(tokenizer), seed)
    optimizer = torch.optim.AdamW(model.parameters(), PLAN.rate, weight_decay=PLAN.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: PLAN.factor(step, N_VILLAGES)
    )
    recording = record(model, optimizer, scheduler=scheduler, dataset=encode(rows, tokenizer))
    taken = PLAN.batches(len(rows))
    for batch in taken:
        recording.step(batch)
    held_out = encode(asked, tokenizer)
    villages = [int(batch[0]) // N_SENTENCES for batch in taken]
    return Villages(recording.run, villages, [held_out.batch(range(held_out.n_queries))])


def _untrained(n_words: int, seed: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=n_words, n_positions=64, n_embd=WIDTH, n_layer=N_LAYERS,
                n_head=N_HEADS, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                bos_token_id=2, eos_token_id=2, use_cache=False,
            )
        )  # fmt: skip


def _draw(folder: Path, found: Curriculum, known: Memorisation) -> list[Path] | MissingPackageError:
    """The pictures' files, or why there are none."""
    from influence.plotting import draw

    paths = [folder / "orders.png", folder / "memorisation.png"]
    try:
        draw(paths[0], [found.random.plot, found.plot])
        draw(paths[1], [known.plot, known.plot_forgetting])
    except MissingPackageError as error:
        return error
    return paths


def _report(
    made: Villages, found: Curriculum, known: Memorisation, pictures: str, seconds: float
) -> str:
    run, random, curve = made.run, found.random, known.forgetting
    real = random.retrained.mean(axis=1)
    low, high = random.agreement.interval
    shown = np.unique(np.linspace(0, len(curve) - 1, 6).round().astype(int))
    return REPORT.format(
        n_parameters=run.flat.n,
        n_villages=run.n_batches,
        n_steps=run.n_steps,
        n_sentences=N_SENTENCES,
        n_asked=ASKED * N_SENTENCES,
        n_asked_villages=ASKED,
        loss=run.losses(run.queries(made.queries)).mean(),
        again="bit for bit" if torch.equal(run.train(), run.final) else "up to rounding",
        n_random=len(real),
        lowest=real.min(),
        highest=real.max(),
        spearman=random.agreement.mean,
        low=low,
        high=high,
        slope=float(np.nanmean(random.agreement.slope)),
        calibration=random.calibration,
        places_before=_places(made, run.places.recorded),
        places_found=_places(made, found.order),
        predicted=found.predicted.mean(),
        real=found.retrained.mean(),
        verdict=found.verdict,
        since="".join(f"{k:>9}" for k in shown),
        curve="".join(f"{curve[k]:>+9.4f}" for k in shown),
        remark=_remark(curve[0], curve[-1]),
        own_calibration=known.calibration,
        seconds=seconds,
        pictures=pictures,
    )


def _places(made: Villages, order: Sequence[int] | np.ndarray[Any, Any]) -> str:
    """Places, from 1, of the batches about the villages asked about."""
    return ", ".join(str(t + 1) for t, i in enumerate(order) if made.villages[i] < ASKED)


def _remark(late: float, early: float) -> str:
    if late < early:
        return "What was read last is known best: earlier batches are partly forgotten."
    return "What was read first is known best: the first steps of so short a training count most."
