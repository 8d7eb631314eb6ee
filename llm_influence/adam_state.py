"""`AdamState`: Adam's running moments by the name of the parameter, from wherever they were kept.

A saved optimizer numbers its parameters and forgets their names. They are found again by a rule,
never by shape alone; all shapes must then agree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influence.errors import InputError, MissingParameterError, NotYetSupportedError
from influence.run import fingerprint
from llm_influence.checkpoint_files import optimizer_file, optimizer_in, read
from llm_influence.checkpoints import Checkpoint
from llm_influence.trainer_folders import is_trainer_folder, trainer_order

_HOW = (
    "Give Checkpoint(weights=..., adam=...): the optimizer, its state_dict(), a path to that, or "
    "{parameter name: exp_avg_sq}."
)


@dataclass(frozen=True, eq=False)
class AdamState:
    """Adam's state at one checkpoint: float32 on the CPU, by parameter name.

    Args:
        exp_avg: Raw m, each of its parameter's shape; empty if only second moments were given.
        exp_avg_sq: Raw v. Parameters without state (frozen ones) are absent.
        step: Steps taken, by name; empty if only second moments were given.
        betas: Decay rates of m and v; None if only second moments were given.
        eps: Adam's own; None if only second moments were given.
    """

    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]
    step: Mapping[str, int] = field(default_factory=dict)
    betas: tuple[float, float] | None = None
    eps: float | None = None

    def first_moment(self, name: str) -> Tensor:
        """m / (1 - beta1^step).

        Raises:
            MissingParameterError: No state of this parameter, or only second moments were given.
        """
        return self._corrected(self.exp_avg, name, 0)

    def second_moment(self, name: str) -> Tensor:
        """v / (1 - beta2^step); as it is where only second moments were given.

        Raises:
            MissingParameterError: No state of this parameter.
        """
        return self._corrected(self.exp_avg_sq, name, 1)

    def _corrected(self, moments: Mapping[str, Tensor], name: str, which: int) -> Tensor:
        if name not in moments:
            raise MissingParameterError(
                f"Adam's moments of {name} are not known; known are those of "
                f"{list(moments)[:5]} (in all {len(moments)}). {_HOW}"
            )
        if self.betas is None:
            return moments[name]
        return moments[name] / (1 - self.betas[which] ** self.step[name])


def adam_state(checkpoint: Checkpoint, model: nn.Module) -> AdamState:
    """Adam's state at a checkpoint, by parameter name.

    An optimizer itself is matched by its tensors. Of a state dict the names are, in this order:
    those it holds (`param_names`, where the optimizer was given named parameters); for a
    Trainer's folder those of its two groups; for a single group the model's parameters that
    require a gradient, in the model's order (so leave `requires_grad` as it was in training).

    Cost: memory for the moments that are not mapped from a float32 file.

    Raises:
        MissingParameterError: No Adam state is there.
        InputError: It does not fit the model's parameters.
        NotYetSupportedError: AMSGrad, groups of different betas or eps, sharded optimizers.
    """
    if isinstance(checkpoint.adam, torch.optim.Optimizer):
        return _of_optimizer(checkpoint.adam, model, checkpoint.name)
    content, by_trainer = _content(checkpoint)
    if content is None:
        raise MissingParameterError(
            f"{checkpoint.name} comes without the state of Adam, which this needs. {_HOW}"
        )
    groups = content.get("param_groups")
    if groups is None:
        return _of_second_moments(content, model, checkpoint.name)
    names = _names(groups, model, by_trainer, checkpoint.name)
    numbers = [number for group in groups for number in group["params"]]
    entries = {
        name: content["state"][number]
        for name, number in zip(names, numbers, strict=True)
        if number in content["state"]
    }
    return _of_entries(entries, groups, model, checkpoint.name)


def adam_fingerprint(checkpoint: Checkpoint, model: nn.Module) -> str:
    """Hash of Adam's state at a checkpoint, for stores of rows that were made with it."""
    state = adam_state(checkpoint, model)
    moments = (*state.exp_avg.items(), *state.exp_avg_sq.items())
    named = [part for name, value in moments for part in (name, value.numpy())]
    return fingerprint(*named, f"{dict(state.step)} {state.betas} {state.eps}")


def typical_root(roots: Iterable[Tensor]) -> float:
    """Median of sqrt(v) over all parameters that ever had a gradient (v > 0).

    Raises:
        InputError: None had one.
    """
    every = torch.cat([root[root > 0] for root in roots])
    if not len(every):
        raise InputError("Expected second moments above 0, got zeros only: no step was taken.")
    return float(every.median())


def _content(checkpoint: Checkpoint) -> tuple[Mapping[str, Any] | None, bool]:
    """What was saved of the optimizer, and whether a Trainer saved it."""
    given, beside = checkpoint.adam, checkpoint.adam is None
    source = checkpoint.weights if given is None else given
    by_trainer = False
    if isinstance(source, str | Path):
        path: Path | None = Path(source)
        path = optimizer_file(path) if path.is_dir() else path
        by_trainer = path is not None and is_trainer_folder(path.parent)
        source = None if path is None else read(path)
    if not isinstance(source, Mapping):
        return None, by_trainer
    found = optimizer_in(source)
    return (found if found is not None or beside else source), by_trainer


def _names(
    groups: Sequence[Mapping[str, Any]], model: nn.Module, by_trainer: bool, called: str
) -> list[str]:
    """The names of a state dict's parameters, in the order of its groups."""
    if all("param_names" in group for group in groups):
        order = [list(group["param_names"]) for group in groups]
    elif len(groups) == 1:
        order = [[name for name, value in model.named_parameters() if value.requires_grad]]
    elif by_trainer:
        order = trainer_order(model)
    else:
        raise InputError(
            f"The optimizer of {called} has {len(groups)} groups of parameters without names, and "
            "their order is not known: give the optimizer itself, make it with named parameters "
            "(Adam(model.named_parameters()), torch 2.6 or later), or give {parameter name: "
            "exp_avg_sq}."
        )
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(names) for names in order]:
        raise InputError(
            f"The optimizer of {called} has groups of {sizes} parameters, but those of the model "
            f"that require a gradient make groups of {[len(names) for names in order]}: set "
            "requires_grad as in training, or give {parameter name: exp_avg_sq}."
        )
    return [name for names in order for name in names]


def _of_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, called: str) -> AdamState:
    name_of = {id(value): name for name, value in model.named_parameters()}
    members = [value for group in optimizer.param_groups for value in group["params"]]
    strange = [tuple(value.shape) for value in members if id(value) not in name_of]
    if strange:
        raise InputError(
            f"The optimizer of {called} must hold parameters of the model itself; {len(strange)} "
            f"of its {len(members)} are others, of shapes {strange[:3]}: make it from this model, "
            "or give its state_dict()."
        )
    entries = {name_of[id(value)]: optimizer.state.get(value) for value in members}
    taken = {name: dict(entry) for name, entry in entries.items() if entry}
    state = _of_entries(taken, optimizer.param_groups, model, called)
    return replace(state, exp_avg=_copied(state.exp_avg), exp_avg_sq=_copied(state.exp_avg_sq))


def _of_entries(
    entries: Mapping[str, Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    model: nn.Module,
    called: str,
) -> AdamState:
    kept = sorted({key for entry in entries.values() for key in entry})
    if not entries or any(
        not {"exp_avg", "exp_avg_sq", "step"} <= set(e) for e in entries.values()
    ):
        raise MissingParameterError(
            f"The optimizer of {called} must hold exp_avg, exp_avg_sq and step of each parameter; "
            f"it holds {kept or 'nothing: it took no step, or is no Adam'}. {_HOW}"
        )
    settings = {
        (float(group["betas"][0]), float(group["betas"][1]), float(group["eps"]))
        for group in groups
        if group["params"]
    }
    if len(settings) > 1 or any(group.get("amsgrad") for group in groups):
        raise NotYetSupportedError(
            f"The optimizer of {called} must be Adam or AdamW with one setting and no AMSGrad; got "
            f"(beta1, beta2, eps) {sorted(settings)}: give {{parameter name: exp_avg_sq}}."
        )
    ((beta1, beta2, eps),) = settings
    return AdamState(
        exp_avg=_fitting({name: e["exp_avg"] for name, e in entries.items()}, model, called),
        exp_avg_sq=_fitting({name: e["exp_avg_sq"] for name, e in entries.items()}, model, called),
        step={name: int(entry["step"]) for name, entry in entries.items()},
        betas=(beta1, beta2),
        eps=eps,
    )


def _of_second_moments(content: Mapping[str, Any], model: nn.Module, called: str) -> AdamState:
    return AdamState(exp_avg={}, exp_avg_sq=_fitting(content, model, called))


def _fitting(moments: Mapping[str, Any], model: nn.Module, called: str) -> dict[str, Tensor]:
    """The moments in float32 on the CPU, if they are of the model's parameters."""
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    got = {
        name: tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        for name, value in moments.items()
    }
    wrong = [
        f"{name} {shape} for {shapes.get(name, 'no parameter')}"
        for name, shape in got.items()
        if shapes.get(name) != shape
    ]
    if wrong or not got:
        raise InputError(
            f"Adam's moments of {called} must be of the model's parameters, in name and shape; of "
            f"{len(got)}, these are not: {', '.join(wrong[:3])}. {_HOW}"
        )
    return {name: value.detach().to("cpu", torch.float32) for name, value in moments.items()}


def _copied(moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in moments.items()}
