"""The command `influence order record`: trains a model and keeps what is needed to do so again.

Nothing heavy is imported here at the top: `influence --help` loads this file.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from influence.cli import Found
from influence.errors import InputError

REMARKS = (
    "Then ask: influence order curriculum --run DIR --queries asked.jsonl. A batch is made of "
    "consecutive lines of the file: put together what belongs together, or shuffle the file. Every "
    "epoch takes the batches in a random order of its own."
)


class Record:
    """`influence order record`: a model's folder and its training data in, a recorded run out."""

    help = "train a language model on a file and record the training"
    example = (
        "influence order record --model model --data train.jsonl --run run \\\n"
        "    --batch-size 8 --rate 1e-3 --schedule cosine"
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = REMARKS
        add = parser.add_argument
        add("--model", required=True, metavar="DIR", help="folder of save_pretrained: the model to "
            "begin with, and its tokenizer; trained without dropout")  # fmt: skip
        add("--data", required=True, metavar="FILE", help="training examples: .jsonl, .json, .csv "
            "or .parquet of the kinds that influence llm build reads")  # fmt: skip
        add("--run", required=True, metavar="DIR", help="new folder for the recorded run")
        add("--batch-size", type=int, default=8, metavar="N", help="examples of a batch "
            "(default: %(default)s)")  # fmt: skip
        add("--epochs", type=int, default=1, metavar="N", help="passes over all batches (default: "
            "%(default)s)")  # fmt: skip
        add("--rate", type=float, default=1e-3, help="peak learning rate of AdamW (default: "
            "%(default)s)")  # fmt: skip
        add("--schedule", choices=["constant", "linear", "cosine"], default="constant",
            help="whether and how the rate falls to 0 (default: %(default)s)")  # fmt: skip
        add("--warmup", type=int, default=0, metavar="STEPS", help="steps in which the rate rises "
            "to its peak (default: %(default)s)")  # fmt: skip
        add("--max-grad-norm", type=float, metavar="NORM", help="clip gradients to this norm "
            "(default: no clipping)")  # fmt: skip
        add("--weight-decay", type=float, default=0.0, metavar="DECAY", help="of AdamW (default: "
            "%(default)s)")  # fmt: skip
        add("--max-length", type=int, metavar="N", help="tokens after which texts are cut "
            "(default: what model and tokenizer can take)")  # fmt: skip
        add(
            "--seed",
            type=int,
            default=0,
            metavar="N",
            help="of the order of batches (default: %(default)s)",
        )

    def run(self, args: argparse.Namespace) -> Found:
        from llm_influence.model_folder import check_model_folder

        check_model_folder(args.model)
        folder = Path(args.run)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            state = "is not empty" if folder.is_dir() else "is a file"
            raise InputError(f"Expected a new folder for --run, but {folder} {state}.")

        from influence.tables import make_folder
        from llm_influence.command_input import told_cut
        from llm_influence.order.files import check_space
        from llm_influence.order.train_file import Plan, train_file

        def tell(n_bytes: int) -> None:
            if not args.quiet:
                print(f"the run will take {n_bytes / 2**20:,.1f} MiB in {folder}", flush=True)
            check_space(folder, n_bytes)

        plan = Plan(**{name: getattr(args, name) for name in Plan.__dataclass_fields__})
        make_folder(args.run)
        recorded = train_file(
            args.model, args.data, args.max_length, plan, not args.quiet, before=tell
        )
        recorded.save(folder, plan)
        run, losses = recorded.run, recorded.losses
        text = (
            f"recorded {folder}: {run.flat.n:,} parameters, {run.n_batches} batches, {run.n_steps} "
            f"steps; loss of the first batch {losses[0]:.4g}, of the last {losses[-1]:.4g}"
        )
        result = {
            "run": folder,
            "n_parameters": run.flat.n,
            "n_batches": run.n_batches,
            "n_steps": run.n_steps,
        }
        stated = {
            "method": "AdamW",
            "parameters": asdict(plan),
            "unit": "loss",
            "fingerprint": run.fingerprint,
            "run": dict(run.provenance),
        }
        cut = told_cut(run.batches.examples, "examples", recorded.max_length)
        document = {
            "provenance": stated,
            "results": [result],
            "losses": losses,
            "written": [folder],
        }
        return Found("\n".join([text, *cut]), document)

    def kept(self, args: argparse.Namespace) -> str:
        return "nothing of the training is kept; the same command begins anew"
