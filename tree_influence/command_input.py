"""What the commands share: a saved model and its tables, as the command line names them.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse
import contextlib
import json
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, eq=False)
class Given:
    """A model tied to its training rows, and queries.

    Attributes:
        run: The traced model.
        X: Features of the queries, shape (n_queries, n_features).
        y: Their truth, or the model's predictions where the table has none, shape (n_queries,).
        facts: What the tables and the model tell of each query, one row each: prediction, truth,
            loss.
    """

    run: Any
    X: Any
    y: Any
    facts: Any

    @property
    def has_truth(self) -> bool:
        return "truth" in self.facts

    @property
    def stated(self) -> dict[str, str]:
        """What a result's provenance says of the queries; nothing where they have their truth."""
        from tree_influence.reporting import NO_TRUTH

        return {} if self.has_truth else NO_TRUTH


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `read_input` reads."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="saved model: LightGBM .txt, XGBoost .json or .ubj, "
        "CatBoost .cbm or .json, scikit-learn saved with skops")  # fmt: skip
    add("--train", required=True, metavar="FILE", help="training rows, CSV or Parquet, in the "
        "order they were trained on")  # fmt: skip
    add("--target", required=True, metavar="COLUMN", help="column to predict")
    add("--queries", required=True, metavar="FILE", help="rows to explain; without the target "
        "column, a classifier's own predictions are explained")  # fmt: skip
    add("--weight", metavar="COLUMN", help="column of sample weights in the training file")
    add("--id", metavar="COLUMN", help="column that names the rows in both files (default: "
        "their position, from 0)")  # fmt: skip
    add("--fill", metavar="TEXT", help="put TEXT where a text column has no value, as was done "
        "for training (CatBoost needs that)")  # fmt: skip
    add("--text", action="append", default=[], metavar="COLUMN", help="read a CSV column as "
        "text, where its categories look like numbers (01) or like missing (None); may be "
        "repeated")  # fmt: skip
    add("--param", action="append", default=[], metavar="NAME=VALUE", help="training parameter "
        "that the saved model does not hold, e.g. reg_lambda=1; may be repeated")  # fmt: skip
    add("--recipe", action="append", default=[], metavar="NAME=VALUE", help="what a saved "
        "XGBoost model was trained with, e.g. max_depth=3, for methods that train again: its file "
        "does not hold it; checked by training; may be repeated")  # fmt: skip
    add("--allow-inexact", action="store_true", help="answer even if the leaves do not "
        "recompute from the training rows; the error is stated")  # fmt: skip


def read_input(args: argparse.Namespace) -> Given:
    """Reads the tables and the model, and ties them."""
    from influence.tables import read_table
    from tree_influence import adapters
    from tree_influence.tables import feature_names

    params = parse_params(args.param)
    asked = read_table(args.queries, args.text, args.fill)
    train = read_table(args.train, args.text, args.fill)
    model = adapters.load(args.model)
    names = feature_names(model)
    run = _trace(model, names, train, params, args)
    if args.recipe:
        run = _trainable(run, params, args)
    return Given(run, *_queries(run, names, asked, args))


def parse_params(pairs: list[str], option: str = "--param") -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as JSON where they can be, else as text."""
    from influence.errors import InputError

    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"{option} takes NAME=VALUE, got {pair!r}.")
        try:
            params[name] = json.loads(value)
        except json.JSONDecodeError:
            params[name] = value
    return params


def _trace(
    model: Any, names: Any, train: Any, params: dict[str, Any], args: argparse.Namespace
) -> Any:
    from tree_influence import trace
    from tree_influence.tables import take_column

    y = take_column(train, args.target, args.train)
    weight = None
    if args.weight is not None:
        weight = take_column(train, args.weight, args.train).to_numpy()
    X, y = _labelled(train, names, y, args.train, args)
    inexact = args.allow_inexact or bool(args.recipe)  # which may explain it, and is traced again
    return trace(
        model, X, y, weight, params, allow_inexact=inexact, progress=not args.quiet
    )  # fmt: skip


def _trainable(run: Any, params: dict[str, Any], args: argparse.Namespace) -> Any:
    """The same run with a model that knows its recipe."""
    from influence.errors import InputError
    from tree_influence import trace

    if not run.adapter.library.startswith("xgboost"):
        raise InputError(
            f"--recipe is for XGBoost; a file of {run.adapter.library} holds its recipe. Leave it "
            "out."
        )
    recipe = {**params, **parse_params(args.recipe, "--recipe")}
    booster = run.adapter.trained_by(recipe, run.X, run.target, run.sample_weight)
    live = trace(
        booster, run.X, run.y, run.sample_weight, params, allow_inexact=args.allow_inexact
    )  # fmt: skip
    return replace(live, train_index=run.train_index)


def _queries(run: Any, names: Any, asked: Any, args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Query features and truth, and what the tables tell of each query."""
    import pandas as pd

    from influence.errors import InputError, UnsupportedModelError

    has_truth = args.target in asked.columns
    if not has_truth and run.classes is None:
        raise InputError(
            f"{args.queries} has no column {args.target!r}; influence is the effect on a loss, so "
            "a regression model needs the truth of each query."
        )
    y = asked[args.target] if has_truth else pd.Series(0, index=asked.index)
    X, y = _labelled(asked, names, y, args.queries, args)
    facts = pd.DataFrame({"prediction": run.predictions(X)}, index=y.index)
    if has_truth:
        facts["truth"] = y
    truth = y if has_truth else facts["prediction"]
    asked_of = run.queries(X, truth)
    with contextlib.suppress(UnsupportedModelError):  # an objective that is known for no row
        facts["loss"] = run.losses(asked_of)
    return X, truth, facts


def _labelled(
    table: Any, names: Any, y: Any, path: str, args: argparse.Namespace
) -> tuple[Any, Any]:
    """The model's columns and a target, with the rows named by the column --id if there is one."""
    import pandas as pd

    from influence.errors import InputError
    from tree_influence.tables import take_column, take_features

    X = take_features(table, names, (args.target, args.weight, args.id), path)
    if args.id is None:
        return X, y
    labels = take_column(table, args.id, path)
    if labels.isna().any() or labels.duplicated().any():
        raise InputError(f"--id needs a column that names each row once; {args.id!r} of {path} "
                         "has missing or repeated values.")  # fmt: skip
    y = y.set_axis(labels)
    return (X.set_axis(y.index) if isinstance(X, pd.DataFrame) else X), y
