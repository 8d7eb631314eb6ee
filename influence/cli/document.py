"""The JSON document that every command prints under `--json`.

    format       1: raised when a name below changes its meaning
    command      "explain", "llm query", ...
    version      of this toolkit
    arguments    what the command was called with, defaults included
    provenance   method, parameters, unit, sign, fingerprint; `run`: versions, measured errors
    queries      one record for each query: its label as `query`, prediction, truth, loss, text
    results      the records that the command is for; see below
    written      paths of the files it wrote

Every document has these names; what a command has no use for is empty. More, by command:

    explain          results: query, side, rank, train, influence
    compare          results: one for each method, as comparison.csv; removal: as removal.csv
    quickstart       results: as of explain; noise, harm_of_flipped, flipped_share, n_wrong
    llm build        results: store, bytes, seconds, n_train, n_tokens; checkpoints, uncovered
    llm query        results: as of explain, with text; tokens: query, train, token, text, influence
    llm quickstart   results, tokens: as of llm query, for the first question; recall, noise
    order record     results: run, n_parameters, n_batches, n_steps; losses: of every step
    order curriculum results: order, predicted, retrained; order, rank, agreement, calibration
    order compare    results: order, query, predicted, retrained; orders, agreement, calibration
    order memorisation  results: batch, place, value, generalisation; forgetting, calibration
    order quickstart curriculum, memorisation: as of those commands
    completion       results: shell, script

What is no number (NaN) or infinite is null. Errors go to standard error, with an exit code above 0.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TextIO

from influence import __version__
from influence.cli import Found

FORMAT = 1
NO_ARGUMENTS = {"command", "inner_command", "quiet", "json", "debug"}


def show(found: Found, args: argparse.Namespace, out: TextIO) -> None:
    """The one place where results are printed: text, or the document; and files are written.

    Args:
        found: What was found.
        args: The arguments of the command.
        out: Standard output.
    """
    if args.json:
        written: Sequence[Path] = ()
        try:
            written = found.write()
        finally:  # what was found is not lost with the disk
            print(text_of(found, args, written), file=out, flush=True)
        return
    try:
        print(found.text, file=out, flush=True)
    finally:  # nor with a reader that has seen enough
        written = found.write()
    if written:
        print("written: " + ", ".join(map(str, written)), file=out)


def text_of(found: Found, args: argparse.Namespace, written: Sequence[Path]) -> str:
    """The document, as text."""
    names = [args.command, getattr(args, "inner_command", None)]
    document = {
        "format": FORMAT,
        "command": " ".join(name for name in names if name),
        "version": __version__,
        "arguments": arguments_of(args),
        "provenance": {},
        "queries": [],
        "results": [],
        **found.document,
        "written": [*found.document.get("written", ()), *written],
    }
    return json.dumps(plain(document), indent=2, allow_nan=False)


def arguments_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the command was called with, besides its name and how it is to speak."""
    return {name: value for name, value in vars(args).items() if name not in NO_ARGUMENTS}


def plain(value: Any) -> Any:
    """A value as JSON has it; a table is a list of records."""
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        columns = [[plain(one) for one in value[name].tolist()] for name in value]
        names = [str(name) for name in value]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return None if pd.isna(value) else str(value)
