"""Learning rate over a training, as a factor of the configured one."""

import math

from configs.training import Optimisation


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
