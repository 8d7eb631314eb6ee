"""`record`: keeps what is needed to train again exactly, around an ordinary training loop."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from influence.checks import check_positive, check_whole
from influence.errors import InfluenceError, InputError, TrainingDataError
from llm_influence.coverage import moved
from llm_influence.examples import Examples, as_examples
from llm_influence.gradients import Loss
from llm_influence.losses import default_loss
from llm_influence.model_checks import check_examples, padding_of
from llm_influence.order.batches import Collected
from llm_influence.order.flat import Flat
from llm_influence.order.held import check_tensors, n_bytes, plain, sharing, tensors
from llm_influence.order.record_checks import (
    check_loss,
    check_losses,
    check_scheduler,
    check_shape,
    check_whole_model,
    copy_of,
    modes,
)
from llm_influence.order.rules import check_optimizer
from llm_influence.order.run import OptimizerRun, Recipe
from llm_influence.order.training import mark, share, step


class Recording:
    """A training loop that is being recorded; made by `record`.

        for batch in batches:
            recording.step(batch)
        run = recording.run

    A call that is refused before its backward pass changes nothing, and the recording goes on
    without it; after one that fails later, the recording says so and is of no use.

    Attributes:
        losses: Mean loss of the batch of each call so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        scheduler: Any,
        max_grad_norm: float | None,
        accumulate: int,
        dataset: Examples | None,
    ) -> None:
        self._model, self._optimizer, self._loss = model, optimizer, loss
        self._scheduler, self._max_grad_norm, self._accumulate = (
            scheduler, max_grad_norm, accumulate,
        )  # fmt: skip
        self._names = _names(model, optimizer)
        self._device = next(model.parameters()).device
        self._collected = Collected(dataset)
        check_tensors(model.state_dict())
        self._began: nn.Module | None = None  # the model as the first call found it
        self._state = copy.deepcopy(optimizer.state_dict())
        self._order: list[int] = []
        self._rates: list[tuple[float, ...]] = []
        self._moving: list[int] | None = None
        self._mark = mark(model)
        self._open = False  # whether a call's backward pass began and its end was not seen
        self.losses: list[float] = []

    @property
    def n_bytes(self) -> int:
        """Bytes of weights (twice), buffers and carried moments that saving the run will take.

        Known before the first step. What the steps take is not in it; `run.n_bytes` counts all.
        """
        trained = dict(self._model.named_parameters())
        start = [*self._model.parameters(), *self._model.buffers()]
        return (
            n_bytes(start)
            + n_bytes(trained[name] for name, _ in self._names)
            + n_bytes(x for one in self._state["state"].values() for x in tensors(one).values())
        )

    def step(self, batch: Any) -> float:
        """One call of the loop: forward, backward, and after `accumulate` calls a step.

        Args:
            batch: What the loss takes; with dataset=, positions of its rows.

        Returns:
            The mean loss of the batch.

        Raises:
            InputError: The loss is random (dropout), not one number for each example, no gradient
                can be taken, or the model or its mode was changed between two calls.
            TrainingDataError: The loss is not finite.
        """
        self.share(batch).backward()
        if len(self._order) % self._accumulate == 0:
            self.before_step()
            step(self._model, self._optimizer, self._max_grad_norm)
            if self._scheduler is not None:
                self._scheduler.step()
        self.ended()
        return self.losses[-1]

    def share(self, batch: Any) -> Tensor:
        """The loss to differentiate next: the batch's mean loss / accumulate.

        This, `before_step` and `ended` are `step` in parts, for loops that take the others.
        """
        self._check_going()
        taken = self._taken(batch)
        if not self._order:
            self._began = copy_of(self._model)
            self._check_repeatable(batch)
        losses = self._loss(self._model, taken)
        check_losses(losses, len(self._order))
        at = self._collected.add(batch, len(losses))
        if len(self._order) % self._accumulate == 0:
            self._model.zero_grad(set_to_none=True)
        self._open = True
        self._order.append(at)
        self.losses.append(float(losses.detach().mean()))
        return share(losses, None, self._accumulate)

    def before_step(self) -> None:
        """Notes a step's rates, once its gradients are there."""
        if len(self._order) != (len(self._rates) + 1) * self._accumulate:
            raise InputError(
                f"Expected a step of the optimizer after each {self._accumulate} calls, got one "
                f"after {len(self._order)} in all."
            )
        self._check_moving()
        self._rates.append(self._checked_rates())

    def ended(self) -> None:
        """Notes that a call, and its step if one was due, came to its end."""
        if len(self._order) == len(self._rates) * self._accumulate:
            self._mark = mark(self._model)
        self._open = False

    @property
    def run(self) -> OptimizerRun:
        """What was recorded so far.

        Raises:
            InputError: Nothing was recorded, or calls wait for a step of the optimizer.
            TrainingDataError: The weights are not finite: the training diverged.
        """
        self._check_closed()
        waiting = len(self._order) % self._accumulate
        if not self._order or waiting:
            raise InputError(
                f"Expected whole steps of {self._accumulate} calls, got {len(self._order)} calls; "
                "call recording.step(batch) "
                + (f"{self._accumulate - waiting} times more." if waiting else "first.")
            )
        self._check_unchanged()
        flat = self._flat()
        final = flat.read(self._model)
        if not torch.isfinite(final).all():
            raise TrainingDataError(
                "Expected a training that converges, but the recorded one ended in weights that "
                f"are not finite (loss {self.losses[-1]:.3g}); lower the learning rate or clip "
                "gradients (max_grad_norm)."
            )
        name = type(self._optimizer).__name__
        # AdamW of older torch does not say of itself that its decay is decoupled.
        told = {"decoupled_weight_decay": True} if name == "AdamW" else {}
        recipe = Recipe(
            name,
            tuple({**told, **_options(group)} for group in self._state["param_groups"]),
            tuple(self._rates),
            self._max_grad_norm,
            self._accumulate,
        )
        assert self._began is not None
        model = copy.deepcopy(self._began)
        flat.write(model, final)
        return OptimizerRun(
            model, self._loss, flat, recipe, sharing(self._began.state_dict()),
            self._state["state"], self._collected.batches(), tuple(self._order), final,
        )  # fmt: skip

    def _flat(self) -> Flat:
        moving, named = self._moving or [], dict(self._model.named_parameters())
        held = self._names
        return Flat(
            tuple(held[i][0] for i in moving),
            tuple(named[held[i][0]].shape for i in moving),
            tuple(held[i][1] for i in moving),
            tuple(moving),
        )

    def _taken(self, batch: Any) -> Any:
        """What the loss takes of what `step` was given."""
        return moved(self._collected.batch(batch), self._device)

    def _check_closed(self) -> None:
        if self._open:
            raise InputError(
                f"Expected calls that end, but call {len(self._order) - 1} of step failed after "
                "its backward pass began, and left model and recording halfway. Load model and "
                "optimizer as they were, and record again."
            )

    def _check_going(self) -> None:
        """Whether the model is as the last call left it, and runs as it will be run again."""
        self._check_closed()
        if torch.is_autocast_enabled(self._device.type):
            raise InputError(
                "Expected plain arithmetic, got autocast, which is not repeated later; record "
                "outside of it, with the model in the precision that is wanted."
            )
        self._check_unchanged()
        if self._began is not None and self._order and modes(self._model) != modes(self._began):
            raise InputError(
                f"Expected the model in the mode of the calls before, but at call "
                f"{len(self._order)} of step other modules are in training mode (an evaluation "
                "that ends in model.train()?); put them back before each call."
            )

    def _check_unchanged(self) -> None:
        if mark(self._model) != self._mark:
            left = f"call {len(self._order) - 1} of step left" if self._order else "record() found"
            raise InputError(
                f"Expected the weights as {left} them, but they were changed since; only "
                "recording.step may change them while a training is recorded."
            )

    def _check_repeatable(self, batch: Any) -> None:
        """Two passes must give the same losses, and change nothing in the model."""
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            first, second = (self._losses_of(batch) for _ in range(2))
        changed = [
            name
            for name, buffer in self._model.named_buffers()
            if not torch.equal(buffer, buffers[name])
        ]
        for name, buffer in self._model.named_buffers():
            buffer.copy_(buffers[name])
        if changed:
            raise InputError(
                "Expected passes that leave the model as it is, but they change its buffers "
                f"{changed[:3]} (batch normalisation?), which another order would change too; "
                "put these modules into evaluation mode."
            )
        check_shape(first)
        if not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise InputError(
                "Expected the same losses from the same batch, got others the second time: "
                "training is random (dropout, or a random collator?), and cannot be repeated in "
                "another order. Set dropout to 0, or call model.eval() before recording."
            )

    def _losses_of(self, batch: Any) -> Any:
        try:
            return self._loss(self._model, self._taken(batch))
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, InfluenceError):
                raise
            raise InputError(
                f"Expected batches that the loss takes, got a {type(batch).__name__} with which it "
                f"fails: {error!r}. A language model takes dicts of tensors, with input_ids and "
                "labels."
            ) from error

    def _check_moving(self) -> None:
        """The same parameters must have a gradient at each step."""
        named = dict(self._model.named_parameters())
        moving = [i for i, (name, _) in enumerate(self._names) if named[name].grad is not None]
        if self._moving is None and moving:
            self._moving = moving
        if not moving or moving != self._moving:
            raise InputError(
                "Expected gradients of the same parameters at each step, got "
                f"{len(moving)} of {len(self._names)} at step {len(self._rates)} and "
                f"{len(self._moving or [])} before; parameters that are used now and then cannot "
                "be followed."
            )

    def _checked_rates(self) -> tuple[float, ...]:
        """The groups' rates; nothing else of them may change."""
        groups = self._optimizer.param_groups
        start = self._state["param_groups"]
        if len(groups) != len(start):
            raise InputError(
                f"Expected the optimizer's {len(start)} groups, got {len(groups)} at step "
                f"{len(self._rates)}; add them before record()."
            )
        for now, before in zip(groups, start, strict=True):
            told = _options(before)
            changed = [name for name, value in _options(now).items() if told.get(name) != value]
            if changed:
                raise InputError(
                    f"Expected a scheduler that changes learning rates alone, but {changed} "
                    f"changed too at step {len(self._rates)}; cycle_momentum=False?"
                )
        return tuple(float(group["lr"]) for group in groups)


def record(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss | None = None,
    scheduler: Any = None,
    max_grad_norm: float | None = None,
    accumulate: int = 1,
    dataset: Any = None,
) -> Recording:
    """Records a training that follows, so that it can be repeated, reordered and explained.

    Keeps one copy of the model as the first call finds it and of the optimizer's state as it is
    now, and references to the batches (copies of views that torch would lay out otherwise); nothing
    of the size of the model for each step.

    Args:
        model: The network, in the mode it is trained in; without dropout.
        optimizer: torch's Adam, AdamW or SGD, fresh or with the state of steps before.
        loss: From (model, batch) to one loss for each example. A batch's loss is their mean.
            Default: by the model's class, as of `trace`.
        scheduler: Stepped after each step of the optimizer; may change learning rates only.
        max_grad_norm: Gradients are clipped to this norm, over all parameters of the optimizer.
        accumulate: Batches whose mean gradient makes one step.
        dataset: The training examples, as `trace` takes them; then `step` takes positions of
            rows. Without it an example that comes padded differently counts as another one.

    Raises:
        UnsupportedModelError: Another optimizer or a compiled model.
        InputError: An argument does not fit.
    """
    check_whole_model(model)
    check_optimizer(optimizer)
    check_scheduler(scheduler, optimizer)
    check_whole("accumulate", accumulate, least=1)
    if max_grad_norm is not None:
        check_positive("max_grad_norm", max_grad_norm)
    chosen = default_loss(model) if loss is None else loss
    check_loss(chosen)
    examples = None if dataset is None else as_examples(dataset, pad=padding_of(model))
    if examples is not None:
        check_examples(model, chosen, examples)
    return Recording(model, optimizer, chosen, scheduler, max_grad_norm, accumulate, examples)


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, int]]:
    """Name and group of each parameter of an optimizer, in the order of its state dict."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [
        (known.get(id(parameter)), g)
        for g, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    ]
    found = [(name, g) for name, g in listed if name is not None]
    if len(found) < len(listed):
        raise InputError(
            f"Expected an optimizer of this model's parameters, but {len(listed) - len(found)} of "
            f"{len(listed)} are not among them; give the model that holds them all."
        )
    return found


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """What of a group is neither parameters nor a learning rate."""
    return {
        name: plain(value)
        for name, value in group.items()
        if name not in ("params", "lr", "initial_lr", "param_names")
    }
