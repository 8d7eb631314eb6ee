"""What the commands share: a model's folder and files of records, as examples of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from influence.errors import InputError
from llm_influence.build_record import BuildSettings
from llm_influence.encoding import UNLIMITED, encode
from llm_influence.losses import classification, default_loss, regression
from llm_influence.model_checks import padding_of
from llm_influence.model_folder import check_model_folder, load_model
from llm_influence.records import read_records
from llm_influence.run import CheckpointRun, trace
from llm_influence.tokens import TokenExamples

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class Given:
    """A traced model and how its records are read.

    Attributes:
        run: The run.
        tokenizer: The model's tokenizer, if it has one.
        settings: The settings with their open ends resolved.
    """

    run: CheckpointRun
    tokenizer: "PreTrainedTokenizerBase | None"
    settings: BuildSettings

    def examples(self, records: "pd.DataFrame") -> TokenExamples:
        """Examples of other records, encoded as the training examples are."""
        return examples_of(records, self.run.model, self.tokenizer, self.settings.max_length)

    def text(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Tokens as text; their numbers where there is no tokenizer.

        Args:
            ids: The tokens.
            special: Write special tokens, too.
        """
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Hashes of the run, of the weights of each checkpoint by name, and of the examples."""
        run = self.run
        names = [f"{c.name} ({i})" for i, c in enumerate(run.checkpoints)]
        return {
            "run": run.fingerprint,
            "models": dict(zip(names, run.model_fingerprints, strict=True)),
            "examples": run.examples.content(slice(0, run.n_train)),
        }


def read_input(settings: BuildSettings, device: torch.device, progress: bool) -> Given:
    """Reads the model and the records, and ties them."""
    check_model_folder(settings.model)
    records = read_records(settings.data, settings.id)
    model, tokenizer = load_model(settings.model)
    longest = max_length_of(settings.max_length, settings.data, records, model, tokenizer)
    settings = replace(settings, max_length=longest)
    examples = examples_of(records, model, tokenizer, settings.max_length, progress)
    run = trace(
        model, examples,
        checkpoints=settings.checkpoints and list(settings.checkpoints), rates=settings.rates,
        batch_size=settings.batch_size, device=device, dtype=settings.dtype,
        modules=settings.modules,
    )  # fmt: skip
    return Given(run, tokenizer, settings)


def max_length_of(
    asked: int | None,
    path: str,
    records: "pd.DataFrame",
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
) -> int | None:
    """What was asked for, or what model and tokenizer can take."""
    if "input_ids" in records:
        if asked is not None:
            raise InputError(f"--max-length cuts texts, but {path} holds input_ids; leave it out.")
        return None
    if asked is not None:
        return asked
    known = (
        getattr(tokenizer, "model_max_length", None),
        getattr(getattr(model, "config", None), "max_position_embeddings", None),
    )
    limits = [int(n) for n in known if isinstance(n, int | float) and 1 < n < UNLIMITED]
    return min(limits, default=None)


def examples_of(
    records: "pd.DataFrame",
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase | None",
    max_length: int | None,
    progress: bool = False,
) -> TokenExamples:
    """Records as examples of a model, checked to be of its task."""
    if "input_ids" in records:
        columns = {str(name): records[name] for name in records}
        examples = TokenExamples.of_columns(columns, records.index, padding_of(model))
    elif tokenizer is None:
        raise InputError(
            "Texts need the model's tokenizer, and its folder holds none; save it there with "
            "tokenizer.save_pretrained(folder), or give records of input_ids."
        )
    else:
        examples = encode(records, tokenizer, max_length, progress=progress)
    _check_task(model, examples)
    return examples


def told_cut(examples: Any, what: str, length: int | None) -> list[str]:
    """A line for how many of some examples were cut to a length; none where none was."""
    n_cut = int(examples.facts.get("truncated", 0))
    return [f"truncated: {n_cut:,} {what}, at {length} tokens"] if n_cut else []


def _check_task(model: nn.Module, examples: TokenExamples) -> None:
    """Refuses labels of another task, and a classifier that cannot find the end of a text."""
    classifies = default_loss(model) in (classification, regression)
    if classifies != ("labels" in examples.per_example):
        wanted = "a label in each record" if classifies else "records without a label"
        raise InputError(
            f"Expected {wanted} for a {'classifier' if classifies else 'language model'}, the "
            "model in this folder; change the records' keys."
        )
    if classifies and getattr(model.config, "pad_token_id", None) is None:
        raise InputError(
            "A classifier's config.json must name its padding token (pad_token_id), by which it "
            "finds the end of a text; set model.config.pad_token_id as in training and save again."
        )
