"""The main job on bundled data: the rows behind a model's errors, mislabelled ones first."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from influence.checks import check_whole
from influence.cli import Found
from influence.detection import label_noise_curve
from influence.errors import InfluenceError
from influence.report import write
from influence.report.page import check_writable
from influence.result import Influence
from influence.tables import ranking

FLIPPED_SHARE = 0.08
SHOWN_QUERIES = 3
TITLE = "A model of breast cancer data, some of whose labels were flipped"

REPORT = """\
A LightGBM model of {n_train} rows, {n_flipped} of them with flipped labels, gets {n_wrong} of \
{n_test} test rows wrong.
{run}

The training rows behind {n_shown} of those errors (LeafInfluence):

{ranking}

How to read it: influence is the change of the query's loss if the row were left out.
  positive = proponent: the row helps; without it the prediction gets worse
  negative = opponent: the row hurts; without it the prediction gets better
{harm:.0%} of the harm to the wrong predictions comes from the flipped rows, which are \
{share:.0%} of the data.

Inspecting the rows of largest self-influence first (BoostIn) finds the flipped ones:

{noise}

Next: influence explain MODEL --train train.csv --target y --queries new.csv"""


def quickstart(seed: int = 0, page: str | None = None, progress: bool = True) -> Found:
    """Trains LightGBM on breast cancer data with some labels flipped, and explains its errors.

    Args:
        seed: Seed of the split and of the flips.
        page: File of a page about all test rows; None for none.
        progress: Show bars.
    """
    if page is not None:
        check_writable(page)
    try:
        from lightgbm import LGBMClassifier
    except ImportError as error:
        raise InfluenceError(
            f"The quickstart needs LightGBM and scikit-learn ({error}); "
            "pip install 'influence-toolkit[lightgbm]'."
        ) from error
    from tree_influence import BoostIn, LeafInfluence, trace
    from tree_influence.reporting import report_page

    X_train, X_test, y_train, y_test, flipped = _data(seed)
    model = LGBMClassifier(n_estimators=50, num_leaves=8, random_state=seed, verbose=-1)
    model.fit(X_train, y_train)
    run = trace(model, X_train, y_train)
    wrong = np.flatnonzero(model.predict(X_test) != y_test)
    explainer = LeafInfluence().fit(run, progress=progress)
    influence = explainer.explain(X_test.iloc[wrong], y_test.iloc[wrong], progress=progress)
    suspicion = BoostIn().fit(run, progress=progress).self_influence(progress=progress)
    noise = label_noise_curve(suspicion, flipped, (0.02, 0.05, 0.1, 0.2, 0.3))
    shown = _ranking(influence, y_train, y_train.index[flipped])
    harm, share = _share_of_harm(influence, flipped), len(flipped) / len(y_train)
    text = REPORT.format(
        n_train=len(y_train),
        n_flipped=len(flipped),
        n_wrong=len(wrong),
        n_test=len(y_test),
        run=repr(run),
        n_shown=min(SHOWN_QUERIES, len(wrong)),
        ranking=shown.to_string(index=False, float_format=lambda value: f"{value:+.3f}"),
        harm=harm,
        share=share,
        noise=noise.to_string(index=False, float_format=lambda value: f"{value:.0%}"),
    )
    losses = run.losses(run.queries(X_test.iloc[wrong], y_test.iloc[wrong]))
    facts = {"query": influence.query_index, "truth": y_test.iloc[wrong], "loss": losses}
    document = {
        "provenance": asdict(influence.provenance),
        "queries": pd.DataFrame(facts),
        "results": ranking(influence),
        "n_wrong": len(wrong),
        "harm_of_flipped": harm,
        "flipped_share": share,
        "noise": noise,
    }
    if page is None:
        return Found(text, document)
    made, _ = report_page(explainer, X_test, y_test, title=TITLE, progress=progress)
    return Found(text, document, lambda: [write(page, made)])


def _data(seed: int) -> tuple[Any, ...]:
    """Train and test rows and labels, and the positions of the training labels that are flipped."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    check_whole("seed", seed)
    bunch: Any = load_breast_cancer(as_frame=True)
    X, y = bunch.data, bunch.target
    y = y.map({0: "malignant", 1: "benign"})
    parts: Any = train_test_split(X, y, test_size=0.3, random_state=seed)
    X_train, X_test, y_train, y_test = parts
    order = np.random.default_rng(seed).permutation(len(y_train))
    flipped = np.sort(order[: round(FLIPPED_SHARE * len(y_train))])
    labels = y_train.to_numpy(dtype=object)
    labels[flipped] = np.where(labels[flipped] == "benign", "malignant", "benign")
    return X_train, X_test, pd.Series(labels, y_train.index), y_test, flipped


def _ranking(influence: Influence, y_train: pd.Series, flipped: pd.Index) -> pd.DataFrame:
    """Harmful and helpful rows of the first queries side by side, flipped labels marked."""
    sides: list[Any] = []
    harmful: Any = influence.opponents(k=4)
    helpful: Any = influence.proponents(k=4)
    for name, frame in (("harmful", harmful), ("helpful", helpful)):
        mark = np.where(frame["train"].isin(flipped), " (flipped)", "")
        frame["label"] = y_train.loc[frame["train"]].to_numpy() + mark
        frame = frame[["query", "rank", "train", "label", "influence"]]
        frame.columns = ["query", "rank", f"{name} row", f"its {name} label", f"{name} influence"]
        sides.append(frame)
    shown = influence.query_index[:SHOWN_QUERIES]
    both = sides[0].merge(sides[1], on=["query", "rank"], how="outer", sort=False)
    return both[both["query"].isin(shown)]


def _share_of_harm(influence: Influence, flipped: Any) -> float:
    """Share of all negative influence that comes from the flipped rows."""
    harm = np.minimum(influence.values, 0)
    return float(harm[flipped].sum() / harm.sum())
