"""`CollectRows`: projected gradients of the training examples, taken while a Trainer trains."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from influence.errors import InputError, NotFittedError, NotYetSupportedError
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.checkpoints import Checkpoint, fingerprint_of
from llm_influence.losses import causal_lm, classification
from llm_influence.projection import Identity, Kronecker, Projection
from llm_influence.rows import Held, RowMap, TrainRows
from llm_influence.run import CheckpointRun, trace
from llm_influence.store import Plan, Store
from llm_influence.trainer_batches import check_trainer, number, precision_of
from llm_influence.trainer_passes import TrainingPasses


@dataclass(frozen=True, eq=False)
class Visit:
    """An optimiser step.

    Attributes:
        epoch: Number of the epoch, from 0.
        rows: Positions of its examples, in the order of the batches.
        rate: Its learning rate.
    """

    epoch: int
    rows: tuple[int, ...]
    rate: float


@dataclass(frozen=True, eq=False)
class Epochs:
    """Rows of every epoch, each kept on its own."""

    parts: list[TrainRows] = field(default_factory=list)

    def blocks(self, checkpoint: int) -> Iterator[tuple[slice, Tensor]]:
        return self.parts[checkpoint].blocks(0)

    def take(self, checkpoint: int, rows: slice) -> Tensor:
        return self.parts[checkpoint].take(0, rows)


class CollectRows:
    """Takes every training example's projected gradient from the training's own backward passes.

        collected = CollectRows()
        collected.attach(trainer)
        trainer.train()
        collected.estimator().explain(queries)

    An example's row is the gradient of its own loss (mean over its target tokens, or negative log
    likelihood of its class) at the weights of the step that visited it, with that step's dropout:
    its share of the Trainer's gradient, with the mean over the batch undone. At the end of every
    epoch the weights are kept, so that queries can be asked there.

    Cost: no second pass; the projections, p (n_out + n_in) multiplications a token and layer;
    n_train x width numbers and a copy of the weights for each epoch, on the CPU or in `store`.
    Passes of evaluation are not recorded.

    Args:
        projection: What gradients are projected by; None keeps them whole.
        store: A new folder for rows and weights of the epochs. Default: in memory.

    Attributes:
        visits: Every optimiser step.
        rows: Rows of every epoch; zero where an example was not visited.
        weights: Learning rate / examples of the step, shape (n_train,) for every epoch.
    """

    def __init__(
        self,
        projection: Projection | None = Kronecker(16),  # noqa: B008  frozen
        *,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        self.projection = Identity() if projection is None else projection
        self.store = None if store is None else Path(store)
        self.visits: list[Visit] = []
        self.rows = Epochs()
        self.weights: list[Tensor] = []
        self._checkpoints: list[Checkpoint] = []
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._trainer: Any = None
        self._run: CheckpointRun | None = None

    def __repr__(self) -> str:
        return f"CollectRows({self.projection!r})"

    def attach(self, trainer: Any) -> None:
        """Makes the Trainer's next `train()` collect; after it the Trainer is as it was.

        Its training examples are given their positions, which travel through sampler, workers and
        collator and are taken off before the model sees the batch; columns that the model does not
        take are removed as the Trainer would.

        Args:
            trainer: A `transformers.Trainer` of a causal language model or a classifier.

        Raises:
            NotYetSupportedError: The Trainer changes losses or gradients in a way that is not
                undone here: several GPUs or processes, fp16, label smoothing, a loss of its own.
            InputError: This was attached before, the store's folder is not empty, or the training
                set is not what `trace` takes.
        """
        if self._trainer is not None:
            raise InputError("This was attached before; make one CollectRows for each training.")
        check_trainer(trainer)
        if self.store is not None and self.store.exists() and any(self.store.iterdir()):
            raise InputError(f"store must be a new or empty folder, {self.store} holds files.")
        args = trainer.args
        run = trace(
            trainer.model,
            DataLoader(trainer.train_dataset, collate_fn=trainer.data_collator),
            batch_size=args.per_device_train_batch_size,
            dtype="bfloat16" if precision_of(trainer) == "bf16" else None,
        )
        if run.loss not in (causal_lm, classification):
            raise NotYetSupportedError(
                "Rows are collected of causal language models and of classifiers, whose loss is a "
                f"mean of negative log likelihoods; got a {type(trainer.model).__name__}."
            )
        self._start = run
        self._row_map = RowMap(run, self.projection)
        self._passes = TrainingPasses(run, self._row_map.bound, args.gradient_accumulation_steps)
        self._trainer, self._callback = trainer, _callback(self)
        self._restore = number(trainer)
        trainer.add_callback(self._callback)

    @property
    def run(self) -> CheckpointRun:
        """The training, each epoch's end as a checkpoint, at the rate sum of rates / n_train."""
        if self._run is None:
            raise NotFittedError("Nothing is collected yet: attach(trainer), then trainer.train().")
        return self._run

    def estimator(self, normalise: Literal["unit"] | None = None) -> "AlongTraining":
        """The fitted estimator.

        Args:
            normalise: "unit" divides rows by their length.
        """
        return AlongTraining(self, normalise).fit(self.run)

    def began(self, model: nn.Module, step: int) -> None:
        """Called when training begins, at a step."""
        if model is not self._start.model or step != 0:
            raise InputError(
                "Expected the training that was attached to, from its start; got "
                f"{'another model' if step == 0 else f'a training resumed at step {step}'}."
            )
        self._passes.start()
        self._new_epoch()

    def passed(self) -> None:
        """Called after the backward pass of each batch."""
        rows, values = self._passes.take()
        self._pending.append((rows, values.cpu()))

    def stepped(self, optimizer: Any) -> None:
        """Called before the optimiser steps, after `passed`."""
        rates = {float(group["lr"]) for group in optimizer.param_groups}
        if len(rates) != 1:
            raise NotYetSupportedError(
                f"Expected one learning rate for all parameters, got {sorted(rates)}."
            )
        (rate,) = rates
        rows = torch.cat([rows for rows, _ in self._pending])
        values = torch.cat([values for _, values in self._pending])
        self._pending = []
        again = rows[self._visited[rows]]
        if len(again) or len(rows.unique()) != len(rows):
            raise NotYetSupportedError(
                "Expected each example at most once in an epoch, got one twice; use the Trainer's "
                "own sampler, without replacement."
            )
        self._visited[rows] = True
        self._values[rows] = values
        self._rates[rows] = rate / len(rows)
        self.visits.append(Visit(len(self.weights), tuple(rows.tolist()), rate))

    def epoch_ended(self) -> None:
        """Called at the end of each epoch."""
        number = len(self.weights)
        weights = {
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in self._start.model.state_dict().items()
        }
        rate = sum(visit.rate for visit in self.visits if visit.epoch == number)
        name = f"epoch {number + 1}"
        checkpoint = Checkpoint(weights, rate=rate / self._start.n_train, name=name)
        if self.store is not None:
            folder = self.store / f"epoch-{number + 1}"
            checkpoint = replace(checkpoint, weights=_saved(weights, folder))
            self.rows.parts.append(self._stored(checkpoint, folder / "rows"))
        else:
            self.rows.parts.append(Held([self._values]))
        self._checkpoints.append(checkpoint)
        self.weights.append(self._rates)
        self._new_epoch()

    def ended(self) -> None:
        """Called at the end of training."""
        self.detach()
        self._run = replace(self._start, checkpoints=tuple(self._checkpoints))
        self._row_map = replace(self._row_map, run=self._run)

    def detach(self) -> None:
        """Gives model and Trainer back as they were; needed only where training broke off."""
        self._passes.stop()
        self._trainer.remove_callback(self._callback)
        self._restore()

    def _new_epoch(self) -> None:
        n_train, bound = self._start.n_train, self._row_map.bound
        double = next(self._start.model.parameters()).dtype == torch.float64
        self._values = torch.zeros(
            n_train, bound.width, dtype=torch.float64 if double else torch.float32
        )
        self._rates = torch.zeros(n_train, dtype=torch.float64)
        self._visited = torch.zeros(n_train, dtype=torch.bool)

    def _stored(self, checkpoint: Checkpoint, folder: Path) -> Store:
        plan = Plan(
            recipe={**self._row_map.recipe, "collected": "while training"},
            models=(fingerprint_of(checkpoint, self._start.model),),
            n_rows=self._start.n_train,
            width=self._row_map.width,
            content=self._start.examples.content,
        )
        store = Store.open(folder, plan)
        for block in store.missing(0):
            store.write(0, block, self._values[block])
        store.finish()
        return store


class AlongTraining(ByRows):
    """TracIn with every training gradient where it was really taken; made by `CollectRows`.

        values[i, q] = sum_e (rate_t / batch_t) <g_q(theta_e), g_i(theta_t)>

    over epochs e, with t the step of epoch e that visited i, batch_t its number of examples (over
    accumulated batches), g_i as that step had it (dropout included), and g_q at the epoch's end.

    Sign: positive = proponent. Unit: "loss", the change that plain gradient descent at the same
    rates would have made by an example's own mean loss; "similarity" with normalise="unit". The
    optimiser's own metric, weight decay and clipping are left out. transformers weights examples
    by their target tokens, which this does not: an example counts as one, as in `TracIn`.
    Cost: nothing to fit; a query costs its gradient at every epoch's end and a pass over the rows.
    Refused: by token of training examples, whose rows were kept whole.

    Reference: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent",
    2020, the sum over visits of section 3.1 with equation 1's checkpoints for the queries only.

    Args:
        collected: What was collected.
        normalise: "unit" divides rows by their length.
    """

    def __init__(self, collected: CollectRows, normalise: Literal["unit"] | None = None) -> None:
        if normalise not in (None, "unit"):
            raise InputError(f'normalise must be None or "unit", got {normalise!r}.')
        self.collected = collected
        self.normalise = normalise
        self.unit = "loss" if normalise is None else "similarity"

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        if run is not self.collected.run or store is not None:
            raise InputError("Fit it to the collected run, without a store: fit(collected.run).")
        query_of = self.collected._row_map
        train_of = replace(query_of, output=_as_visited)
        side = Side(unit=self.normalise == "unit")
        return [
            Step(e, self.collected.rows, train_of, query_of, side, side, weight)
            for e, weight in enumerate(self.collected.weights)
        ]


def _as_visited(model: nn.Module, batch: Any) -> Tensor:
    raise NotYetSupportedError(
        "Rows of training examples were collected while training and cannot be made again, for "
        "single tokens neither; use TracIn().fit(collected.run)."
    )


def _saved(weights: dict[str, Tensor], folder: Path) -> Path:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(weights, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def _callback(collected: CollectRows) -> Any:
    """The Trainer's events, passed on."""
    from transformers import TrainerCallback

    class Events(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            collected.began(given["model"], state.global_step)

        def on_substep_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            collected.passed()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            collected.passed()
            collected.stepped(given["optimizer"])

        def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            collected.epoch_ended()

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            collected.ended()

    return Events()
