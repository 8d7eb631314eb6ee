"""`RecordTraining`: records the training of a Hugging Face Trainer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from influence.errors import InputError, NotFittedError, NotYetSupportedError
from llm_influence.examples import Examples, OtherExamples, as_examples
from llm_influence.gradients import Loss
from llm_influence.model_checks import padding_of
from llm_influence.order.recorder import Recording, record
from llm_influence.order.rules import check_optimizer
from llm_influence.order.run import OptimizerRun
from llm_influence.trainer_batches import (
    ROW,
    NumberedBatches,
    check_trainer,
    columns_of,
    number,
    precision_of,
)


class RecordTraining:
    """Records what a `transformers.Trainer` does, as `record` does in a loop of one's own.

        recorder = RecordTraining()
        recorder.attach(trainer)
        trainer.train()
        run = recorder.run

    The Trainer keeps its optimizer, schedule, clipping, accumulation, sampler and evaluation. Its
    loss becomes the mean over a batch's examples of each example's own loss, which other orders
    and weights can be asked about; transformers' own is the mean over the target tokens of all
    accumulated batches. Batches are the Trainer's, collated from `run.batches.examples`: where
    the examples have input_ids and the collator only pads, padded on the right to the longest.

    The run's final weights are the Trainer's, and on a CPU `run.train()` ends in the same bits.
    Cost: one copy of the weights, the examples in memory, and no extra pass but two on the first
    batch.

    Args:
        loss: From (model, batch) to one loss for each example. Default: by the model's class.
    """

    def __init__(self, loss: Loss | None = None) -> None:
        self.loss = loss
        self._trainer: Any = None
        self._recording: Recording | None = None
        self._run: OptimizerRun | None = None

    def attach(self, trainer: Any) -> None:
        """Makes the Trainer's next `train()` record; after it the Trainer is as it was.

        Args:
            trainer: A `transformers.Trainer`, with a training set whose examples have positions.

        Raises:
            NotYetSupportedError: It trains in a way that is not repeated here: several processes
                or GPUs, fp16, bf16 by autocast, label smoothing, a loss of its own.
            UnsupportedModelError: Its optimizer, where it has one already, is not followed here.
            InputError: This was attached before, or the training set is not what `trace` takes.
        """
        if self._trainer is not None:
            raise InputError("This was attached before; make one RecordTraining for each training.")
        check_trainer(trainer)
        _check_arithmetic(trainer)
        self._examples = _examples_of(trainer)
        self._trainer, self._callback = trainer, _callback(self)
        self._own_loss, self._restore = trainer.compute_loss, number(trainer)
        trainer.compute_loss = self._loss_of
        trainer.compute_loss_func = _unused  # with one, no Trainer divides by the batches of a step
        trainer.add_callback(self._callback)

    @property
    def run(self) -> OptimizerRun:
        """The training, once it has ended."""
        if self._run is None:
            raise NotFittedError("Nothing is recorded yet: attach(trainer), then trainer.train().")
        return self._run

    def detach(self) -> None:
        """Gives the Trainer back as it was; needed only where training broke off."""
        trainer = self._trainer
        trainer.remove_callback(self._callback)
        self._restore()
        trainer.compute_loss_func = None
        del trainer.compute_loss

    def began(self, given: Mapping[str, Any], state: Any) -> None:
        """Called when training begins, with the model and the optimizer as they then are."""
        args, model, wrapped = self._trainer.args, given["model"], given["optimizer"]
        optimizer = getattr(wrapped, "optimizer", wrapped)  # accelerate's holds the real one
        accumulate, most = args.gradient_accumulation_steps, args.max_grad_norm or None
        try:
            _check_steps(given["train_dataloader"], accumulate, state.max_steps)
            self._recording = record(
                model, optimizer, self.loss, None, most, accumulate, self._examples
            )
            if most is not None:
                _check_clipped(model, optimizer)
        except BaseException:
            self.detach()
            raise

    def stepping(self) -> None:
        """Called before the optimizer steps."""
        self._going.before_step()

    def passed(self) -> None:
        """Called after each batch, and its step if one was due."""
        self._going.ended()

    def ended(self) -> None:
        """Called at the end of training."""
        self.detach()
        self._run = self._going.run

    @property
    def _going(self) -> Recording:
        assert self._recording is not None
        return self._recording

    def _loss_of(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """What the Trainer differentiates; of evaluation batches its own loss."""
        if ROW in inputs and model.training:
            loss = self._going.share(inputs[ROW].cpu())
            loss.register_hook(_check_unscaled)
            return loss
        plain = {name: value for name, value in inputs.items() if name != ROW}
        own: Callable[..., Any] = self._own_loss
        self._trainer.compute_loss_func = None
        try:
            return own(model, plain, return_outputs, num_items_in_batch)
        finally:
            self._trainer.compute_loss_func = _unused


def _unused(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
    raise AssertionError("the loss is computed by RecordTraining")


def _check_unscaled(gradient: Tensor) -> None:
    """The Trainer must differentiate what it was given."""
    if float(gradient) != 1:
        raise NotYetSupportedError(
            "Expected a Trainer that differentiates the loss it is given, but this one multiplies "
            f"it by {float(gradient):.6g}; try another version of transformers."
        )


def _examples_of(trainer: Any) -> Examples:
    loader = DataLoader(trainer.train_dataset, collate_fn=trainer.data_collator)
    examples = as_examples(loader, pad=padding_of(trainer.model))
    if isinstance(examples, OtherExamples):
        collate = NumberedBatches(trainer.data_collator, columns_of(trainer))
        return replace(examples, collate=collate)
    return examples


def _check_arithmetic(trainer: Any) -> None:
    """Refuses what makes a step another function of its batches."""
    args = trainer.args
    if args.load_best_model_at_end:
        raise NotYetSupportedError(
            "A training is recorded with the weights it ends in, this Trainer has "
            "load_best_model_at_end=True; train as many steps as the best model took."
        )
    if precision_of(trainer) == "bf16":
        raise NotYetSupportedError(
            "A training is recorded in the precision of the model, this Trainer has bf16=True, "
            "which is autocast, or follows one in this process that has. Train without it, in a "
            "new process: in float32, or with a model in bfloat16."
        )
    if trainer.optimizer is not None:
        check_optimizer(getattr(trainer.optimizer, "optimizer", trainer.optimizer))


def _check_steps(loader: Any, accumulate: int, n_steps: int) -> None:
    """Refuses epochs whose last step has fewer batches than the others."""
    whole, rest = divmod(len(loader), accumulate)
    if rest and n_steps > whole:
        raise NotYetSupportedError(
            f"Expected steps of equally many batches, but an epoch's {len(loader)} batches are no "
            f"multiple of gradient_accumulation_steps={accumulate}, and its last step would take "
            f"{rest}; choose batch size or accumulation so that it fits."
        )


def _check_clipped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    other = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if other:
        raise InputError(
            "Expected an optimizer of all parameters that have gradients, as their norm is "
            f"clipped, but it lacks {other[:3]}; freeze them (requires_grad_(False)), or set "
            "max_grad_norm=0."
        )


def _callback(recorder: RecordTraining) -> Any:
    """The Trainer's events, passed on."""
    from transformers import TrainerCallback

    class Events(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            recorder.began(given, state)

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            recorder.stepping()

        def on_substep_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            recorder.passed()

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            recorder.passed()

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            recorder.ended()

    return Events()
