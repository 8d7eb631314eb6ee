"""Which examples a Trainer's batch holds, and what its Trainer must not do to them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from influence.errors import InputError, NotYetSupportedError

ROW = "__row__"  # an example's position in the training set, carried through its batch


@dataclass(frozen=True, eq=False)
class Numbered:
    """A training set whose examples carry their position."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {**self.dataset[position], ROW: int(position)}


@dataclass(frozen=True, eq=False)
class NumberedBatches:
    """A collator that puts the positions of a batch's examples beside what another collates.

    Attributes:
        collate: The other.
        columns: Keys that it is given; None for all.
    """

    collate: Callable[[list[Any]], Any]
    columns: frozenset[str] | None

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, Any]:
        rows = [example[ROW] for example in examples if ROW in example]
        kept = [
            {
                name: value
                for name, value in example.items()
                if name != ROW and (self.columns is None or name in self.columns)
            }
            for example in examples
        ]
        batch = dict(self.collate(kept))
        return {**batch, ROW: torch.tensor(rows)} if rows else batch


def number(trainer: Any) -> Callable[[], None]:
    """Lets a Trainer's batches hold their rows; returns what gives the Trainer back as it was."""
    args = trainer.args
    own = (trainer.train_dataset, trainer.data_collator, args.remove_unused_columns)
    trainer.data_collator = NumberedBatches(trainer.data_collator, columns_of(trainer))
    trainer.train_dataset = Numbered(trainer.train_dataset)
    args.remove_unused_columns = False

    def restore() -> None:
        trainer.train_dataset, trainer.data_collator, args.remove_unused_columns = own

    return restore


def columns_of(trainer: Any) -> frozenset[str] | None:
    """The keys that the Trainer's own rule leaves in its examples; None where it removes none."""
    if not trainer.args.remove_unused_columns:
        return None
    model = getattr(trainer.model, "get_base_model", lambda: trainer.model)()
    known = inspect.signature(model.forward).parameters
    return frozenset({*known, "label", "label_ids", *trainer.label_names})


def precision_of(trainer: Any) -> str:
    """What it computes in: no (as the model is), bf16 or fp16.

    In transformers 4 a Trainer may compute in that of an earlier one of the same process, whatever
    its own arguments say: a variable of the environment hands it on.
    """
    return "fp16" if trainer.args.fp16 else trainer.accelerator.mixed_precision


def check_trainer(trainer: Any) -> None:
    """Refuses what changes a batch's loss or gradients in a way that cannot be undone.

    Raises:
        NotYetSupportedError: Names what it is.
        InputError: There is no training set.
    """
    from transformers import Trainer

    if not isinstance(trainer, Trainer):
        raise InputError(
            f"Expected a transformers.Trainer, got a {type(trainer).__name__}; make the Trainer "
            "first, then attach(trainer)."
        )
    if trainer.train_dataset is None or not hasattr(trainer.train_dataset, "__len__"):
        raise InputError(
            "Expected a Trainer with a train_dataset whose examples have positions, got "
            f"{type(trainer.train_dataset).__name__}."
        )
    args, own = trainer.args, type(trainer)
    reasons = {
        "several GPUs by DataParallel (n_gpu > 1)": args.n_gpu > 1,
        "several processes (world_size > 1)": args.world_size > 1,
        "DeepSpeed": getattr(trainer, "is_deepspeed_enabled", False),
        "FSDP": getattr(trainer, "is_fsdp_enabled", False),
        "fp16, whose GradScaler skips steps": precision_of(trainer) == "fp16",
        "torch_compile": args.torch_compile,
        "label_smoothing_factor": args.label_smoothing_factor != 0,
        "neftune_noise_alpha": getattr(args, "neftune_noise_alpha", None) is not None,
        "auto_find_batch_size": args.auto_find_batch_size,
        "use_liger_kernel": getattr(args, "use_liger_kernel", False),
        "compute_loss_func": trainer.compute_loss_func is not None,
        "model_init": trainer.model_init is not None,
        f"compute_loss of {own.__name__}": own.compute_loss is not Trainer.compute_loss,
        f"training_step of {own.__name__}": own.training_step is not Trainer.training_step,
    }
    found = [reason for reason, there in reasons.items() if there]
    if found:
        raise NotYetSupportedError(
            f"Expected a plain Trainer in one process, this one has {found[0]}. Train without "
            "it, or save checkpoints and use trace(model, dataset, checkpoints=...)."
        )
