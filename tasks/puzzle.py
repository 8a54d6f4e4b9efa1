"""Training a classifier by Puzzle-CAM: the learner, and the published settings of its optimiser."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from configs.training import Puzzle, Training
from methods.losses import puzzle_losses
from methods.networks import ClassifierNetwork, class_maps
from methods.training import alpha, tile
from tasks.engine import Learner, Moment, Terms
from tasks.rates import factor_groups

STEPS = 2**40
"""Parts that a training is counted in where only the fraction of it is known."""


class PuzzleGridError(ValueError):
    """Images whose maps do not have the grid of the maps of their pieces."""


class PuzzleLearner(Learner):
    """A classifier that finds the same classes, at the same places, in images whole and in pieces.

    The whole images and their pieces pass the network separately, as published; so do the statistics of batch norms.

    Parameters
    ----------
    network
        Classifier whose head is linear right on the mean of its last stage. Its head loses its bias: it becomes 0 and
        does not learn, as the published network has none and its logits are means of class maps.
    settings
        The training; ``settings.puzzle`` is what is special about it.
    side
        Of the images, in pixels.

    Raises
    ------
    ClassMapError
        A network with another head.
    PuzzleGridError
        The network's maps of the pieces, put together, have another size than those of the whole image.

    Notes
    -----
    The paper resizes images at random to 320 to 640 pixels and crops 512, padded with zeros. Here they are augmented as
    for any training of the classifier (a square an eighth larger, a random crop of it, flips): nothing is padded.

    References
    ----------
    Jo and Yu, Puzzle-CAM: Improved Localization via Matching Partial and Full Features, ICIP 2021.

    Examples
    --------
    >>> from methods.networks import build_classifier
    >>> learner = PuzzleLearner(build_classifier("small", 2), Training(puzzle=Puzzle()), 64)
    >>> batch = {"images": torch.rand(2, 3, 64, 64), "targets": torch.tensor([[1, 0], [0, 1]])}
    >>> list(learner(batch, Moment(0, 0, 0, 0.0)))
    ['classification', 'pieces', 'reconstruction', 'entropy']
    """

    def __init__(self, network: ClassifierNetwork, settings: Training, side: int) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.puzzle = settings.puzzle or Puzzle()
        self.module = network.model
        _require_grid(network, side, self.puzzle.pieces)
        bias = network.model.get_submodule(network.head).bias
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias).requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        """All of it."""
        return self.module

    def forward(self, tensors: dict[str, Tensor], moment: Moment) -> Terms:
        """The terms of Puzzle-CAM, times their weights at this moment."""
        images, settings = tensors["images"], self.puzzle
        maps, _ = class_maps(self.network, images)
        pieces, _ = class_maps(self.network, tile(images, settings.pieces))
        terms = puzzle_losses(
            maps,
            pieces,
            tensors["targets"],
            pieces=settings.pieces,
            level=settings.level,
            distance=settings.distance,
            region=settings.region,
        )
        weight = alpha(round(moment.progress * STEPS), STEPS, maximum=settings.alpha, rise=settings.rise)
        return {
            "classification": terms.class_loss,
            "pieces": terms.p_class_loss,
            "reconstruction": weight * terms.re_loss,
            "entropy": settings.entropy * terms.entropy_loss,
        }

    def groups(self) -> list[dict[str, Any]]:
        """As :func:`recipe_groups` has it."""
        return recipe_groups(self.module, [self.network.head], self.settings)


def recipe_groups(module: nn.Module, new: Sequence[str], settings: Training) -> list[dict[str, Any]]:
    """Parameter groups of a classifier's training.

    Parameters
    ----------
    module
        What is trained.
    new
        Names of its modules that have not been trained before; "" is all of it.
    settings
        ``groups``: weights, biases, new weights, new biases, as :func:`methods.training.parameter_groups` has them.
        ``compat``: with the weight decay as plain momentum in place of the configured one.

    Returns
    -------
    list of dict
        For :meth:`tasks.engine.Learner.groups`. A group may be empty.

    Examples
    --------
    >>> groups = recipe_groups(nn.Linear(3, 2), [""], Training(groups=True))
    >>> [(len(one["params"]), one["factor"], one["weight_decay"]) for one in groups]
    [(0, 1.0, 0.0001), (0, 2.0, 0.0), (1, 10.0, 0.0001), (1, 20.0, 0.0)]
    """
    groups: list[dict[str, Any]] = [{"params": [one for one in module.parameters() if one.requires_grad]}]
    if settings.groups:
        groups = factor_groups(module, new, settings.weight_decay)
    if settings.compat:
        groups = [{**one, "momentum": settings.weight_decay, "nesterov": False} for one in groups]
    return groups


def _require_grid(network: ClassifierNetwork, side: int, pieces: int) -> None:
    """Try the network on blank images, with nothing to learn from them."""
    modes = {module: module.training for module in network.model.modules()}
    first = next(network.model.parameters())
    network.model.eval()
    try:
        with torch.no_grad():
            whole, part = (
                class_maps(network, torch.zeros(1, 3, size, size, dtype=first.dtype, device=first.device))[0].shape[-1]
                for size in (side, side // pieces)
            )
    finally:
        for module, mode in modes.items():
            module.training = mode
    if whole != pieces * part:
        step = pieces * 2 ** round(torch.log2(torch.tensor(side / whole)).item())
        sizes = sorted({max(1, side // step) * step, -(-side // step) * step})
        raise PuzzleGridError(
            f"classifier.train.puzzle: expected maps of {pieces} x {pieces} pieces to make one of the whole image, got "
            f"{part} cells a side and {whole} at input_size {side}: set classifier.input_size: "
            f"{' or '.join(map(str, sizes))}"
        )
