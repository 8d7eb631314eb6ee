"""Whether a recorded training, taken again, ends where it ended."""

from influence.errors import ParityError
from llm_influence.order.run import OptimizerRun

FAR = 0.01  # share of its way by which a repeated path may miss the recorded end


def check_repeats(run: OptimizerRun) -> None:
    """Trains again, and refuses a run that ends elsewhere.

    On the recording's own processor it ends in the same bits; on another one, or with other
    threads, rounding differs, which a training may magnify.

    Raises:
        ParityError: It ends further than 1 % of its way from the recorded end.
    """
    *_, last = run.path()
    off, way = (last - run.final).norm(), (run.final - run.begin()[0]).norm()
    if not off <= FAR * way:
        raise ParityError(
            "Expected to repeat the recorded training, but training again in the recorded order "
            f"ends {float(off):.2g} away, of {float(way):.2g} that the weights moved. What the "
            "recording does not hold took part: a random loss (dropout in a later batch, another "
            "random number), hooks of parameters or of the optimizer, or an optimizer state or "
            "gradients that were changed between the steps. Without these, rounding is magnified: "
            "train in float64 or with a lower learning rate."
        )
