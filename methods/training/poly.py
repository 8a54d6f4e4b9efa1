"""Stochastic gradient descent with a polynomial decay, as Puzzle-CAM and IRN train: four groups of parameters."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

FACTORS = {(False, False): 1, (False, True): 2, (True, False): 10, (True, True): 20}
"""Learning rates of (new, bias), as factors."""


def parameter_groups(model: nn.Module, new: Sequence[str], *, rate: float, decay: float) -> list[dict[str, Any]]:
    """Parameters of a model in four groups with learning rates and weight decays of their own.

    Parameters
    ----------
    model
        Network of which a part has been trained before.
    new
        Names of the modules that have not, as in ``model.named_modules()``; all others count as trained before.
    rate
        Learning rate of weights trained before.
    decay
        Weight decay.

    Returns
    -------
    list of dict
        Trained weights (``rate``), trained biases (2 x), new weights (10 x), new biases (20 x), for any optimiser of
        torch. Biases do not decay; shifts of batch norms are biases, their scales are weights. A group may be empty.
        Parameters that ask for no gradient are left out.

    Raises
    ------
    ValueError
        A module in ``new`` that the model does not have.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2, bias=False))
    >>> for group in parameter_groups(model, ["1"], rate=1, decay=0.5):
    ...     print(len(group["params"]), group["lr"], group["weight_decay"])
    1 1 0.5
    1 2 0.0
    1 10 0.5
    0 20 0.0
    """
    known = {name for name, _ in model.named_modules()}
    if unknown := [name for name in new if name not in known]:
        raise ValueError(f"expected names of modules of {type(model).__name__}, got {', '.join(map(repr, unknown))}")
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {group: [] for group in FACTORS}
    for name, parameter in model.named_parameters():
        owner, _, own = name.rpartition(".")
        if parameter.requires_grad:
            found[any(_within(owner, part) for part in new), own == "bias"].append(parameter)
    return [
        {"params": found[group], "lr": factor * rate, "weight_decay": 0.0 if group[1] else decay}
        for group, factor in FACTORS.items()
    ]


def poly_optimizer(
    model: nn.Module,
    new: Sequence[str],
    *,
    rate: float = 0.1,
    decay: float = 1e-4,
    momentum: float = 0.9,
    compat: bool = False,
) -> SGD:
    """Stochastic gradient descent over :func:`parameter_groups`.

    Parameters
    ----------
    model, new, rate, decay
        As for :func:`parameter_groups`.
    momentum
        Momentum.
    compat
        Use ``decay`` as momentum instead. The released optimisers of Puzzle-CAM and IRN pass it in the place of the
        momentum by accident, so the published numbers come from training with hardly any (1e-4), at rate 0.1.

    Raises
    ------
    ValueError
        A module in ``new`` that the model does not have, or negative values.

    Examples
    --------
    >>> model = nn.Linear(3, 2)
    >>> [poly_optimizer(model, [], compat=compat).param_groups[0]["momentum"] for compat in (False, True)]
    [0.9, 0.0001]
    """
    groups = parameter_groups(model, new, rate=rate, decay=decay)
    return SGD(groups, lr=rate, momentum=decay if compat else momentum)


def poly_factor(step: int, *, steps: int, power: float = 0.9) -> float:
    """Share of the learning rate that is left after ``step`` of ``steps`` steps: ``(1 - step / steps) ** power``.

    0 after the last step.

    Examples
    --------
    >>> [poly_factor(step, steps=4, power=2) for step in (0, 2, 4, 5)]
    [1.0, 0.25, 0.0, 0.0]
    """
    return float(max(1 - step / steps, 0.0) ** power)


def poly_schedule(optimizer: SGD, steps: int, *, power: float = 0.9) -> LambdaLR:
    """Scheduler of all groups of an optimiser, to be stepped after each of its steps.

    Parameters
    ----------
    optimizer
        Its learning rates now are those of the first step.
    steps
        Steps of the whole training, 1 or more.
    power
        Exponent, above 0.

    Raises
    ------
    ValueError
        No step, or a power that is not positive.

    Examples
    --------
    >>> optimizer = poly_optimizer(nn.Linear(3, 2), [], rate=8)
    >>> schedule = poly_schedule(optimizer, steps=4, power=1)
    >>> optimizer.step(); schedule.step()
    >>> schedule.get_last_lr()
    [6.0, 12.0, 60.0, 120.0]
    """
    if steps < 1 or not 0 < power < float("inf"):
        raise ValueError(f"expected steps >= 1 and power > 0, got steps={steps}, power={power}")
    return LambdaLR(optimizer, partial(poly_factor, steps=steps, power=power))


def _within(owner: str, part: str) -> bool:
    return part in ("", owner) or owner.startswith(f"{part}.")
