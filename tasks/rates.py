"""Learning rates over a training and of its parts, as factors of the configured one."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from configs.training import Optimisation
from methods.training import parameter_groups


def rate_factor(settings: Optimisation, progress: float) -> float:
    """Factor of the learning rate after a fraction of the training.

    Parameters
    ----------
    settings
        Schedule and epochs.
    progress
        0 to 1, the fraction of all steps that are done.

    Examples
    --------
    >>> [rate_factor(Optimisation(schedule="step", epochs=4, step_epochs=2), part) for part in (0.0, 0.25, 0.5)]
    [1.0, 1.0, 0.1]
    >>> rate_factor(Optimisation(warmup_epochs=10, epochs=20, schedule="constant"), 0.25)
    0.5
    """
    epoch = progress * settings.epochs
    if epoch < settings.warmup_epochs:
        return epoch / settings.warmup_epochs
    rest = settings.epochs - settings.warmup_epochs
    part = (epoch - settings.warmup_epochs) / rest if rest else 1.0
    match settings.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * part))
        case "step":
            # A small surplus: 0.25 of 4 epochs may come out just below 1.
            return float(settings.gamma ** int(epoch / settings.step_epochs + 1e-9))
        case "poly":
            return float((1 - part) ** settings.power)


def factor_groups(module: nn.Module, new: Sequence[str], decay: float) -> list[dict[str, Any]]:
    """Parameter groups of IRN and Puzzle-CAM, for :meth:`tasks.engine.Learner.groups`.

    Parameters
    ----------
    module
        What is trained.
    new
        Names of its modules that have not been trained before; "" is all of it.
    decay
        Weight decay of weights.

    Returns
    -------
    list of dict
        Weights, biases, new weights, new biases as :func:`methods.training.parameter_groups` has them, with ``factor``
        to multiply the learning rate by. A group may be empty.

    Examples
    --------
    >>> [(len(one["params"]), one["factor"]) for one in factor_groups(nn.Linear(3, 2), [""], 1e-4)]
    [(0, 1.0), (0, 2.0), (1, 10.0), (1, 20.0)]
    """
    made = parameter_groups(module, new, rate=1.0, decay=decay)
    return [{**{key: value for key, value in one.items() if key != "lr"}, "factor": one["lr"]} for one in made]
