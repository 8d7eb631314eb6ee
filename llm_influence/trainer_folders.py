"""What the folders of a Hugging Face Trainer tell of the training: steps, rates and groups.

`training_args.bin` is a pickle and is never opened; all is read from `trainer_state.json`.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
from torch import nn

from influence.errors import InputError, MissingPackageError, MissingParameterError, StorageError
from llm_influence.checkpoint_files import TRAINER_STATE

_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_folders(folder: Path) -> list[Path]:
    """The folders checkpoint-N in a Trainer's output_dir, in the order of steps."""
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted((int(match[1]), path) for match, path in found)]


def is_trainer_folder(path: object) -> TypeGuard[Path]:
    """Whether a Trainer wrote this folder."""
    return isinstance(path, Path) and (path / TRAINER_STATE).is_file()


def trainer_rates(folders: Sequence[Path], n_train: int) -> list[float]:
    """Rate of each checkpoint: the steps since the one before it (or since the start).

    rate_c = (1 / n_train) sum of the learning rates of steps s, s_{c-1} < s <= s_c. A step on the
    mean loss of a batch of b examples visits an example with probability b / n_train and then
    moves by (learning rate / b) along its own gradient, so the size of the batch cancels. Taking
    the steps that lead *to* a checkpoint counts each step of the training once, up to the last
    checkpoint, and needs no guess of what came after.

    Between logged steps the learning rate is interpolated linearly; before the first and after
    the last it is the nearest one logged (log every step for exact sums). Where groups of
    parameters have several rates, the Trainer logs the first. transformers before 4.51 logs
    the rate of the step to come, so its sums are one step late.

    Args:
        folders: Checkpoints of one run, in the order of steps; all steps before the first of
            them count as its own.
        n_train: Number of examples of the whole training set.

    Raises:
        MissingParameterError: No learning rate was logged.
        InputError: Folders of several runs, or not in the order of steps.

    Reference: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent",
    NeurIPS 2020, section 3.
    """
    states = [_state(folder) for folder in folders]
    steps = [step for step, _ in states]
    if len({folder.parent for folder in folders}) > 1 or steps != sorted(set(steps)):
        raise InputError(
            "Rates are found for the checkpoints of one training run in the order of their steps; "
            f"got steps {steps} of {[str(folder) for folder in folders]}. Give rates=[...], one "
            "for each checkpoint."
        )
    logged = {
        int(entry["step"]): float(entry["learning_rate"])
        for _, log in states
        for entry in log
        if "learning_rate" in entry
    }
    if not logged:
        raise MissingParameterError(
            f"{folders[-1] / TRAINER_STATE} holds no learning rate (nothing was logged by then): "
            "train with logging_steps=1, or give rates=[...] (--rates), for each checkpoint the "
            "sum of the learning rates since the one before it, divided by the number of training "
            "examples."
        )
    known = sorted(logged)
    rates = np.interp(np.arange(1, steps[-1] + 1), known, [logged[step] for step in known])
    total = np.concatenate([[0.0], np.cumsum(rates)])[[0, *steps]]
    return [float(rate) for rate in np.diff(total) / n_train]


def trainer_order(model: nn.Module) -> list[list[str]]:
    """Names of the trained parameters in the Trainer's two groups: with weight decay, without.

    The rule is that of the installed transformers (biases and norms do not decay).
    """
    try:
        from transformers import Trainer
    except ImportError as error:
        raise MissingPackageError(
            "A Trainer's optimizer.pt is matched to the model by transformers' own rule: pip "
            "install 'influence-toolkit[llm]'."
        ) from error
    # The method uses nothing of the Trainer itself.
    decay = set(Trainer.get_decay_parameter_names(None, model))  # pyright: ignore[reportArgumentType]
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    return [
        [name for name in trained if name in decay],
        [name for name in trained if name not in decay],
    ]


def _state(folder: Path) -> tuple[int, list[dict]]:
    """The step of a checkpoint, and what was logged up to it."""
    path = folder / TRAINER_STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return int(state["global_step"]), list(state["log_history"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is no Trainer's state: {error!r}.") from error
