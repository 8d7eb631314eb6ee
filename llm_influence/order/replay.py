"""`Replay`: the reverse sweep through a recorded training."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.base import Attributor
from influence.change import Change, Without, random_subsets
from influence.checks import check_positive, check_whole
from influence.engine import columns_per_block
from influence.errors import InputError, ParityError, UnsupportedChangeError
from influence.progress import track
from influence.run import blocks
from llm_influence.order.of_recorded import OfRecorded, as_recorded
from llm_influence.order.places import Unit, check_unit
from llm_influence.order.repeats import FAR, check_repeats
from llm_influence.order.replay_calibration import Calibration, calibrated
from llm_influence.order.rewind import rewind
from llm_influence.order.rules import Moments, back_through_clip, clip_scale
from llm_influence.order.run import BatchQueries, OptimizerRun

Floats = NDArray[np.float64]
VECTORS = 16  # of the size of the parameters, held for each query


class _State(NamedTuple):
    """Of a training between two steps.

    Attributes:
        weights: Shape (n,).
        moments: Each of that shape.
        gradients: Of the draws of the step that led here, before clipping.
    """

    weights: Tensor
    moments: Moments
    gradients: tuple[Tensor, ...]


class _Pass(NamedTuple):
    """A backward pass of a step.

    Attributes:
        batch: Its examples.
        even: What each example counts in the step as recorded.
        shares: What each counts now, shape (n_examples,).
    """

    batch: Any
    even: float
    shares: Tensor


Draw = list[_Pass]  # the passes of a step
Path = list[list[Draw]]  # of every step the draws it absorbs the mean over


class Replay(OfRecorded, Attributor[OptimizerRun, BatchQueries]):
    """The derivative of a query's loss by the weight of every batch, or sample, at every step.

        values[i, q] = -dL_q / dr_i = -sum over its visits of <a_t, grad l_i(w_t)> / n_t

    with r_i the weight of row i in its steps, whose number of examples n_t stays as recorded, and
    a_t the derivative of the query's final loss by the gradient of step t. It is found by carrying
    the derivatives by weights and moments back through every step of the optimizer, clipping and
    decay included; the batch's Hessian is in the product (one Hessian-vector product a step).

    Sign: positive = proponent. Unit: loss, to first order in the weights.
    Cost, in trainings: a sweep 3 with one query, and about .8 for each further one; all queries
    together (`total`) 4; `average` as many sweeps more. Fit 1, and with `calibrate` as many more
    and a sweep with 4 queries: 10 in all by default. States are computed anew from 2 sqrt(n_steps)
    kept ones, so that each step is taken twice forwards.
    Memory: 16 vectors of the size of the parameters for each query of a block, which is sized by
    that, 8 sqrt(n_steps) for the states, and the activations of a pass for up to 8 queries.
    Wrong where a removal changes more than the first order: few rows left out suit the recorded
    path, half of them `path="both"`. Wrong altogether where training magnifies small
    differences (a cold start at a high rate); so `fit` really trains without a few halves of the
    rows, states how their effects compare in every result, and where they do not go with the
    predicted ones no answer is given (`UnsupportedChangeError`).
    Refused: any run that `record` did not make, and one whose path in floating point leaves the
    recorded one (`ParityError`).

    Reference: Engstrom et al., "Optimizing ML Training with Metagradient Descent", 2025 (the exact
    derivative, "replay"); smoothing, averaging and the path of halves are ours.

    Args:
        unit: What a training row is: a distinct batch, or a sample.
        smoothing: Adam's sqrt(v) counts as sqrt(v + smoothing^2) in derivatives, which is what
            keeps them finite where v is near 0. "auto" takes the typical sqrt(v), the median over
            the run; 0 gives the exact derivative.
        path: What sweeps go around: "recorded"; "halves" for a virtual training whose every step
            absorbs the mean over a random half of its rows and the other half: of their gradients,
            and of the squares, which is the middle of all trainings on halves, and costs twice; or
            "both", whose mean is the trapezoid rule from all rows to half of them, and costs
            thrice.
        average: Sweeps around trainings on random halves of the rows, which together count as much
            as those of `path`.
        calibrate: Random halves of the rows that are really left out, to judge the predictions on
            4 of the run's own batches, see `replay_calibration`; from 2 on, and 0 skips it. They
            are those of `average`, as far as these go.
        seed: Of all halves.

    Attributes:
        smoothing_: The number used.
    """

    smoothing_: float

    def __init__(
        self,
        unit: Unit = "batch",
        smoothing: float | Literal["auto"] = "auto",
        average: int = 0,
        path: Literal["recorded", "halves", "both"] = "recorded",
        calibrate: int = 3,
        seed: int = 0,
    ) -> None:
        if smoothing != "auto":
            check_positive("smoothing", smoothing, zero=True)
        if path not in ("recorded", "halves", "both"):
            raise InputError(f'path must be "recorded", "halves" or "both", got {path!r}.')
        check_whole("average", average)
        check_whole("calibrate", calibrate)
        if calibrate == 1:
            raise InputError(
                "calibrate must be 0 or from 2 on, as effects of halves are compared with each "
                "other, got 1."
            )
        check_whole("seed", seed)
        self.unit: Unit = check_unit(unit)
        self.smoothing: float | Literal["auto"] = smoothing
        self.average, self.path, self.calibrate, self.seed = average, path, calibrate, seed

    def _fit(self, run: OptimizerRun) -> OptimizerRun:
        seen = as_recorded(run).by(self.unit)
        if self.path != "halves":
            _check_clipping(seen)
        typical, missed = self._walked(seen)
        self.smoothing_ = typical if self.smoothing == "auto" else float(self.smoothing)
        self.findings_ = {"smoothing": self.smoothing_, "path off by at most": missed}
        n_subsets = max(self.average, self.calibrate)
        subsets = random_subsets(seen.n_train, 0.5, n_subsets, self.seed)
        around = [_recorded(seen)] if self.path != "halves" else []
        around += [_halves(seen, self.seed)] if self.path != "recorded" else []
        averaged = [_recorded(seen, subset) for subset in subsets[: self.average]]
        self._trainings = [_Training(seen, path, self.smoothing_) for path in (*around, *averaged)]
        self._shares = np.repeat(
            [1 / len(around), 1 / max(self.average, 1)], [len(around), self.average]
        )
        self._calibration = self._calibrated(seen, subsets[: self.calibrate])
        return seen

    def _calibrated(self, run: OptimizerRun, subsets: list[Without]) -> Calibration | None:
        if not subsets:
            return None

        def explained(queries: BatchQueries) -> Floats:
            size = columns_per_block(run.n_train, _bytes_per_value(run))
            parts = [queries[block] for block in blocks(queries.n_queries, size)]
            swept = [_by_row(run, self._swept(run, part)) for part in parts]
            return np.concatenate(swept, axis=1)

        found = calibrated(run, subsets, explained, self._progress)
        self.findings_ = {**self.findings_, **found.findings}
        return found

    def _walked(self, run: OptimizerRun) -> tuple[float, float]:
        """The typical sqrt(v) over the run, and how far our path ends from the recorded one."""
        rule, medians = run.rule(), []
        states = track(
            _Training(run, _recorded(run), 0.0).walked(), "path", run.n_steps, self._progress
        )
        for step, state in enumerate(states):
            roots = rule.roots(state.moments, step)
            medians += [float(roots.median())] if len(roots) else []
            last = state.weights
        off, way = (last - run.final).abs(), run.final - run.begin()[0]
        if not off.norm() <= FAR * way.norm():
            check_repeats(run)
            raise ParityError(
                "Expected to repeat the recorded training by the optimizer's formula, but the "
                f"weights end {float(off.norm()):.2g} away, of {float(way.norm()):.2g} that they "
                "moved: rounding is magnified. Train in float64 or with a lower learning rate."
            )
        return float(np.median(medians)) if medians else 0.0, float(off.max())

    def total(self, queries: Any) -> Floats:
        """Influence of every training row on the sum of the queries' losses, shape (n_train,).

        One sweep for all queries: much cheaper than the sum over `explain`.
        """
        run, asked = self._ask(queries)
        return _by_row(run, self._at_places(asked, together=True))[:, 0]

    def at_steps(self, queries: Any) -> Floats:
        """Influence of the row at every place of the run, shape (n_queries, n_places).

        A row that is visited in several epochs has a place in each; `run.places` says which row,
        and which step, a place belongs to. The influence of a row is the sum over its places.
        """
        asked = self._ask(queries)[1]
        tracked = self._tracked_blocks(asked.n_queries, self._progress)
        return np.concatenate([self._at_places(asked[block]) for block in tracked])

    def _add_columns(self, queries: BatchQueries, out: Floats) -> None:
        out += _by_row(self.run_, self._at_places(queries))

    def _diagonal(self, train: BatchQueries, rows: slice) -> Floats:
        values = _by_row(self.run_, self._at_places(train))
        return values[np.arange(rows.start, rows.stop), np.arange(train.n_queries)]

    def _bytes_per_value(self) -> int:
        return _bytes_per_value(self._fitted_run())

    def _at_places(self, queries: BatchQueries, *, together: bool = False) -> Floats:
        if self._calibration is not None:
            self._calibration.check()
        return self._swept(self._fitted_run(), queries, together=together)

    def _swept(self, run: OptimizerRun, queries: BatchQueries, *, together: bool = False) -> Floats:
        """Mean over the trainings; with `together` of the sum over the queries."""

        def slopes(training: _Training, weights: Tensor) -> Tensor:
            of = training.derivatives
            each = torch.stack([of.gradient(weights, run.placed(b)) for b in queries.batches])
            return each.sum(dim=0, keepdim=True) if together else each

        sweeps = [training.swept(slopes, self._progress) for training in self._trainings]
        return np.average(sweeps, axis=0, weights=self._shares)


def _check_clipping(run: OptimizerRun) -> None:
    """Refuses rows that are the whole of a clipped step: its length is that of the clip."""
    most = run.recipe.max_grad_norm
    if most is None or run.places.n_places > run.n_steps:
        return
    weights, *_ = run.begin()
    norm = float(run.derivatives().gradient(weights, run.row(int(run.places.recorded[0]))).norm())
    if norm > most:
        raise UnsupportedChangeError(
            f"Expected steps that change with the weight of their {run.unit}, but gradients are "
            f"clipped to {most:g} (the first has {norm:.3g}), and a step of one {run.unit} is then "
            'as long whatever that weight is. Ask Replay("sample"), path="halves", or record '
            "without clipping or with accumulate=2."
        )


def _bytes_per_value(run: OptimizerRun) -> int:
    held = VECTORS * run.flat.n * run.final.element_size() + 16 * run.places.n_places
    return held // run.n_train + 8


def _by_row(run: OptimizerRun, at_places: Floats) -> Floats:
    """Sums over the places of each row, shape (n_train, n_queries)."""
    found = np.zeros((run.n_train, len(at_places)))
    np.add.at(found, run.places.recorded, at_places.T)
    return found


class _Training:
    """A training that can be gone back through.

    Each step absorbs the mean over its draws of the clipped gradient and of its square: one draw is
    an ordinary step.

    Attributes:
        derivatives: Of the losses.
    """

    def __init__(self, run: OptimizerRun, path: Path, smoothing: float) -> None:
        self.derivatives = run.derivatives()
        self._run, self._rule, self._smoothed = run, run.rule(), run.rule(smoothing)
        self._path = path
        self._begin = _State(*run.begin(), ())

    def walked(self) -> Iterator[_State]:
        """The states after each step."""
        state = self._begin
        for step in range(self._run.n_steps):
            state = self._advance(step, state)
            yield state

    def swept(self, slopes: Callable[["_Training", Tensor], Tensor], progress: bool) -> Floats:
        """Influence at every place, shape (n_queries, n_places).

        Args:
            slopes: From the last weights to the queries' gradients, shape (n_queries, n).
            progress: Show a bar.
        """
        states = rewind(self._begin, self._advance, self._run.n_steps)
        _, after = next(states)
        first = slopes(self, after.weights)
        adjoints = (first, *(torch.zeros_like(first) for _ in after.moments))
        found = np.zeros((len(first), self._run.places.n_places))
        for step, state in track(states, "replay", self._run.n_steps, progress):
            adjoints, effects = self._back(step, state, after.gradients, adjoints)
            found[:, self._run.places.of_step(step)] = effects.double().cpu().numpy()
            after = state
        return found

    def _advance(self, step: int, state: _State) -> _State:
        weights, moments, _ = state
        gradients = tuple(self._gradient(weights, draw) for draw in self._path[step])
        mean, square = self._absorbed(gradients)
        return _State(*self._rule.update(weights, moments, mean, square, step), gradients)

    def _gradient(self, weights: Tensor, draw: Draw) -> Tensor:
        found = torch.zeros_like(weights)
        for one in draw:
            found = found + self.derivatives.gradient(weights, one.batch, one.shares)
        return found

    def _clipped(self, gradient: Tensor) -> Tensor:
        return gradient * clip_scale(gradient, self._run.recipe.max_grad_norm)

    def _absorbed(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Means over the draws of the clipped gradient and of its square."""
        clipped = torch.stack([self._clipped(gradient) for gradient in gradients])
        return clipped.mean(dim=0), (clipped**2).mean(dim=0)

    def _back(
        self,
        step: int,
        state: _State,
        gradients: tuple[Tensor, ...],
        adjoints: tuple[Tensor, ...],
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Adjoints before a step from those after it, and the influence at its places."""
        mean, square = self._absorbed(gradients)
        partials = self._smoothed.partials(state.weights, state.moments, mean, square, step)
        of_weights, *of_moments, of_mean, of_square = partials.back(adjoints)
        effects = torch.zeros((), dtype=mean.dtype, device=mean.device)
        for gradient, draw in zip(gradients, self._path[step], strict=True):
            along = (of_mean + 2 * self._clipped(gradient) * of_square) / len(gradients)
            along = back_through_clip(gradient, along, self._run.recipe.max_grad_norm)
            of_draw = []
            for one in draw:
                with self.derivatives.linearised(state.weights, one.batch, one.shares) as here:
                    bent, slopes = here.products(along)
                of_weights = of_weights + bent
                of_draw.append(-one.even * slopes)
            effects = effects + torch.cat([self._at_places(of_pass) for of_pass in of_draw], dim=1)
        return (of_weights, *of_moments), effects

    def _at_places(self, of_pass: Tensor) -> Tensor:
        """From the examples of a pass to its places, shape (n_queries, n_places of the pass)."""
        return of_pass if self._run.unit == "sample" else of_pass.sum(dim=1, keepdim=True)


def _recorded(run: OptimizerRun, change: Change | None = None) -> Path:
    """The path of the recorded training, or of one with other weights."""
    sizes = iter([len(run.batches.rows[i]) for i in run.order])
    path = []
    for parts in run.parts(change):
        draw = []
        for part in parts:
            n = next(sizes)
            even = 1 / (n * len(parts))
            shares = run.final.new_full((n,), even)
            draw.append(
                _Pass(part.batch, even, shares if part.weights is None else even * part.weights)
            )
        path.append([draw])
    return path


def _halves(run: OptimizerRun, seed: int) -> Path:
    """Of each step two draws: a random half of its places, and the other half."""
    path = []
    for step, (draw,) in enumerate(_recorded(run)):
        here = run.places.of_step(step)
        n = here.stop - here.start
        kept = run.final.new_zeros(n)
        kept[np.random.default_rng([seed, step]).permutation(n)[: n // 2]] = 1
        sizes = [1 if run.unit == "batch" else len(one.shares) for one in draw]
        path.append(
            [
                [
                    one._replace(shares=one.shares * of_pass)
                    for one, of_pass in zip(draw, part.split(sizes), strict=True)
                ]
                for part in (kept, 1 - kept)
            ]
        )
    return path
