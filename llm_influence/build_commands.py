"""The command `influence llm build`: gradients of all training examples, kept in a store.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from influence.cli import Found
from influence.errors import InputError
from llm_influence.build_record import (
    RECORD,
    BuildRecord,
    BuildSettings,
    absolute_paths,
    read_record,
)
from llm_influence.methods import METHODS, estimator_of

if TYPE_CHECKING:
    from llm_influence.command_input import Given
    from llm_influence.store import Store

REMARKS = (
    "--model, --data and --store are needed, or --replay. A build that was cut, or data with new "
    "lines at its end: the same command again. Then ask: influence llm query --store DIR "
    "--queries asked.jsonl."
)
ANYWAY = ("store", "device")  # may be given with --replay


class Build:
    """`influence llm build`: a model's folder and its training data in, a store out."""

    help = "keep the gradients of all training examples of a language model in a folder"
    example = (
        "influence llm build --model model --data train.jsonl --store rows \\\n"
        "    --checkpoints output_dir --metric adam --whiten 1"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = REMARKS
        add = parser.add_argument
        add("--model", metavar="DIR", help="folder of save_pretrained: a causal language model, a "
            "sequence classifier, or a PEFT adapter; with its tokenizer")  # fmt: skip
        add("--data", metavar="FILE", help="training examples: .jsonl, .json, .csv or .parquet of "
            "text, prompt and completion, question and answer, messages, or input_ids")  # fmt: skip
        add("--store", metavar="DIR", help="where to keep the gradients; what is there already "
            "is not computed again")  # fmt: skip
        add("--replay", metavar="FILE", help=f"build again with the settings in an {RECORD}; "
            "--store and --device may be given beside it")  # fmt: skip
        add("--id", metavar="KEY", help="key that names the examples (default: their position, "
            "from 0)")  # fmt: skip
        add("--checkpoints", nargs="+", metavar="PATH", help="moments of training: a Trainer's "
            "output_dir, folders or files (default: the model as it is)")  # fmt: skip
        add("--rates", nargs="+", type=float, metavar="RATE", help="learning rate x visits / "
            "batch size of each checkpoint (default: from the Trainer's folders)")  # fmt: skip
        self._add_method(parser)
        self._add_passes(parser)

    def _add_method(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--method", choices=list(METHODS), help="what values are made of (default: tracin, the "
            "sum over checkpoints of rate x inner product of gradients)")  # fmt: skip
        add("--p", type=int, metavar="P", help="size of the projection's sides: P x P numbers for "
            "each layer (default: 16)")  # fmt: skip
        add("--metric", choices=["identity", "adam"], help="adam: for training with Adam, steps as "
            "it made them; needs checkpoints with its state (default: identity)")  # fmt: skip
        add("--normalise", choices=["unit"], help="divide gradients by their length")
        add("--whiten", type=float, metavar="DAMPING", help="whiten by the training gradients' "
            "second moment; 1 is a good choice")  # fmt: skip
        add("--modules", nargs="+", metavar="PATTERN", help="names of modules whose gradients are "
            "taken (default: *)")  # fmt: skip
        add("--seed", type=int, metavar="N", help="of the projection (default: 0)")

    def _add_passes(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--batch-size", type=int, metavar="N", help="examples in one pass; changes no value "
            "(default: 16)")  # fmt: skip
        add("--max-length", type=int, metavar="N", help="tokens after which texts are cut "
            "(default: what model and tokenizer can take)")  # fmt: skip
        add("--device", metavar="NAME", help="where passes run (default: cuda where there is one, "
            "else cpu)")  # fmt: skip
        add("--dtype", choices=["bfloat16", "float16"], help="number type of the forward pass "
            "(default: the model's own)")  # fmt: skip
        add("--store-dtype", choices=["float32", "bfloat16"], help="number type of the store "
            "(default: float32)")  # fmt: skip

    def run(self, args: argparse.Namespace) -> Found | None:
        began = time.perf_counter()
        settings = _settings(args)
        estimator = estimator_of(settings)

        from llm_influence.command_input import read_input
        from llm_influence.store_at import StoreAt
        from llm_influence.torchrun import joined

        with joined(settings.device) as rank:
            shown = rank.is_first and not args.quiet
            given = read_input(replace(settings, device=rank.device.type), rank.device, shown)
            record = _record(given)
            if shown:
                print(_about(given), flush=True)

            def opened(store: "Store") -> None:
                if rank.is_first:
                    _write(Path(settings.store) / RECORD, record)
                if shown:
                    print(disk_use(store), flush=True)

            estimator.fit(
                given.run, store=StoreAt(settings.store, settings.store_dtype, opened),
                progress=shown,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            return _found(given, estimator, record, seconds) if rank.is_first else None

    def kept(self, args: argparse.Namespace) -> str:
        return "finished parts of the store are kept; the same command goes on from there"


def _found(given: "Given", estimator: Any, record: BuildRecord, seconds: float) -> Found:
    """What was built, and where."""
    store, run = given.settings.store, given.run
    size = _size(Path(store))
    result = {
        "store": store,
        "bytes": size,
        "seconds": seconds,
        "n_train": run.n_train,
        "n_tokens": int(run.examples.lengths.sum()),
    }
    document = {
        "provenance": asdict(estimator.provenance),
        "results": [result],
        "checkpoints": record.facts["checkpoints"],
        "uncovered": record.facts["uncovered"],
        "written": [store],
    }
    return Found(f"built {store}: {mebibytes(size)} in {seconds:.1f} s", document)


def disk_use(store: "Store") -> str:
    """The size of a store when it is finished, and how much of it is there."""
    n_checkpoints = store.n_checkpoints
    n_missing = sum(len(store.missing(c)) for c in range(n_checkpoints))
    n_shards = n_checkpoints * -(-store.n_rows // store.shard_rows)
    text = f"disk: {mebibytes(store.nbytes)} for {store.n_rows:,} rows of {store.width:,} numbers "
    text += f"({store.dtype}), {n_checkpoints} checkpoint{'s' if n_checkpoints > 1 else ''}"
    there = n_shards - n_missing
    return f"{text}; {there} of {n_shards} shards are there" if there else text


def mebibytes(nbytes: float) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"


def _settings(args: argparse.Namespace) -> BuildSettings:
    given = {name: getattr(args, name) for name in BuildSettings.__dataclass_fields__}
    if args.replay is not None:
        more = [n for n, value in given.items() if value is not None and n not in ANYWAY]
        if more:
            listed = ", ".join("--" + name.replace("_", "-") for name in more)
            raise InputError(f"--replay takes all settings from its file; leave out {listed}.")
        record = read_record(Path(args.replay))
        changed = {name: given[name] for name in ANYWAY if given[name] is not None}
        return replace(record.located(), **{"store": record.absolute["store"], **changed})
    lacking = [f"--{name}" for name in ("model", "data", "store") if given[name] is None]
    if lacking:
        raise InputError(f"Expected {', '.join(lacking)} (or --replay); name them.")
    if given["metric"] == "adam" and given["checkpoints"] is None:
        raise InputError(
            "--metric adam needs --checkpoints that hold the optimizer's state, e.g. a Trainer's "
            "output_dir."
        )
    return BuildSettings.of(given)


def _record(given: "Given") -> BuildRecord:
    import platform

    import numpy as np
    import torch
    import transformers

    from influence import __version__

    run = given.run
    facts: dict[str, Any] = {
        "n_train": run.n_train,
        "checkpoints": [{"name": c.name, "rate": c.rate} for c in run.checkpoints],
        "provenance": dict(run.provenance),
        "uncovered": dict(run.coverage.uncovered),
        "versions": {
            "influence": __version__, "torch": torch.__version__, "numpy": np.__version__,
            "transformers": transformers.__version__, "python": platform.python_version(),
        },
    }  # fmt: skip
    return BuildRecord(given.settings, absolute_paths(given.settings), given.fingerprint, facts)


def _write(path: Path, record: BuildRecord) -> None:
    from influence.errors import StorageError
    from llm_influence.shard import write_file

    try:
        write_file(path, record.text().encode())
    except OSError as error:
        raise StorageError(f"Could not write {path}: {error}.") from error


def _about(given: "Given") -> str:
    """What is traced: sizes, the covered share, what is left out, what was cut."""
    from llm_influence.command_input import told_cut

    run = given.run
    n_parameters = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    lines = [
        f"{given.settings.model}: {type(run.model).__name__}, {n_parameters:,} trained parameters",
        f"{given.settings.data}: {run.n_train:,} examples, {int(run.examples.lengths.sum()):,} "
        "tokens",
        f"covered: {run.coverage.share:.2%} of the trained parameters",
    ]
    lines += [f"  not {name}: {why}" for name, why in run.coverage.uncovered.items()]
    lines += told_cut(run.examples, "examples", given.settings.max_length)
    return "\n".join(lines)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
