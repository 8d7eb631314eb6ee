"""What `influence order record` does: trains a model in a folder on a file of records."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from influence.checks import check_positive, check_whole
from influence.errors import InputError, StorageError
from influence.progress import track
from influence.tables import together
from llm_influence.command_input import examples_of, max_length_of
from llm_influence.examples import Examples
from llm_influence.model_folder import load_model
from llm_influence.order.batches import Batches, Rows
from llm_influence.order.held import n_bytes
from llm_influence.order.recorder import Recording, record
from llm_influence.order.run import OptimizerRun
from llm_influence.order.saved_batches import as_tensors
from llm_influence.records import read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RUN, TOKENIZER, ABOUT = "run", "tokenizer", "order.json"  # in the folder of a recorded training


@dataclass(frozen=True)
class Plan:
    """How a model is trained: AdamW on batches of consecutive records.

    Attributes:
        batch_size: Records of a batch; the last batch has the rest.
        epochs: Passes over all batches, each in a random order of its own.
        rate: Peak learning rate.
        schedule: How it falls to 0 over the steps after the warm-up.
        warmup: Steps in which it rises from 0 to its peak.
        max_grad_norm: Norm that gradients are clipped to; None for no clipping.
        weight_decay: Of AdamW.
        seed: Of the order of batches.
    """

    batch_size: int = 8
    epochs: int = 1
    rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    max_grad_norm: float | None = None
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            check_whole(name, getattr(self, name), least=1)
        for name in ("warmup", "seed"):
            check_whole(name, getattr(self, name))
        check_positive("rate", self.rate)
        check_positive("weight_decay", self.weight_decay, zero=True)
        if self.schedule not in ("constant", "linear", "cosine"):
            raise InputError(
                f'schedule must be "constant", "linear" or "cosine", got {self.schedule!r}.'
            )

    def factor(self, step: int, n_steps: int) -> float:
        """What the peak rate is multiplied by at a step, from 0 on."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        gone = (step - self.warmup) / max(1, n_steps - self.warmup)
        falling = {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + cos(pi * gone)) / 2}
        return falling[self.schedule]

    def batches(self, n_examples: int) -> list[Rows]:
        """The rows of every step's batch."""
        cuts = np.arange(self.batch_size, n_examples, self.batch_size)
        batches = np.split(np.arange(n_examples), cuts)
        rng = np.random.default_rng(self.seed)
        return [batches[i] for _ in range(self.epochs) for i in rng.permutation(len(batches))]


@dataclass(frozen=True, eq=False)
class RecordedFile:
    """A recorded training on records, and how records are read for it.

    Attributes:
        run: The run.
        tokenizer: Of the model, if it has one.
        max_length: Tokens after which texts are cut; None for records of tokens.
        losses: Mean loss of the batch of each step; empty for a run read from its folder.
    """

    run: OptimizerRun
    tokenizer: "PreTrainedTokenizerBase | None"
    max_length: int | None
    losses: tuple[float, ...] = ()

    def examples(self, path: str) -> Examples:
        """The records of another file as examples."""
        return examples_of(read_records(path), self.run.model, self.tokenizer, self.max_length)

    def save(self, folder: Path, plan: Plan) -> None:
        """Writes all to an empty folder: none of it is there before all is complete.

        Raises:
            StorageError: It cannot be written.
        """
        about = {"plan": asdict(plan), "max_length": self.max_length, "losses": self.losses}
        with together(folder) as part:
            self.run.save(part / RUN)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(part / TOKENIZER)
            (part / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "RecordedFile":
        """Reads what `save` wrote.

        Raises:
            StorageError: The folder holds no such training, or a damaged one.
        """
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            max_length = about["max_length"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"Expected a folder that influence order record wrote, but {folder / ABOUT} cannot "
                f"be read ({error})."
            ) from error
        return cls(OptimizerRun.load(folder / RUN), _tokenizer(folder / TOKENIZER), max_length)


def train_file(
    model_folder: str,
    data: str,
    max_length: int | None,
    plan: Plan,
    progress: bool,
    before: Callable[[int], None],
) -> RecordedFile:
    """Trains a model from the weights in its folder, without dropout, and records it.

    Args:
        model_folder: What save_pretrained wrote, with the tokenizer.
        data: File of records.
        max_length: Tokens after which texts are cut; None for what model and tokenizer can take.
        plan: How to train.
        progress: Show bars.
        before: Called before the first step with the bytes that saving the run will take.
    """
    records = read_records(data)
    model, tokenizer = load_model(model_folder)
    longest = max_length_of(max_length, data, records, model, tokenizer)
    examples = examples_of(records, model, tokenizer, longest, progress)
    batches = plan.batches(examples.n_queries)
    model.eval()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        plan.rate, weight_decay=plan.weight_decay,
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: plan.factor(step, len(batches))
    )
    recording = record(
        model, optimizer, scheduler=scheduler, max_grad_norm=plan.max_grad_norm, dataset=examples
    )
    before(_predicted(recording, examples, batches))
    for batch in track(batches, "training", len(batches), progress):
        recording.step(batch)
    return RecordedFile(recording.run, tokenizer, longest, tuple(recording.losses))


def _predicted(recording: Recording, examples: Examples, batches: list[Rows]) -> int:
    """Bytes of the tensors of a run that takes these batches, from its beginning."""
    distinct = {int(rows[0]): rows for rows in batches}
    _, held = as_tensors(Batches(examples, tuple(distinct.values())))
    numbers = 2 * 8 * len(batches)  # the batch and the rate of every step
    return recording.n_bytes + n_bytes(held.values()) + numbers


def _tokenizer(folder: Path) -> "PreTrainedTokenizerBase | None":
    if not folder.is_dir():
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the libraries meet in damaged files
        raise StorageError(f"The tokenizer in {folder} cannot be loaded: {error}") from error
