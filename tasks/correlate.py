"""Self-correlation of maps with the features of the pass that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from configs.refine import Correlation, ScgStep
from methods.activation import Record, enlarge, min_max, record
from methods.activation.pairs import class_ranks
from methods.networks import ClassifierNetwork, resolve_layers
from methods.refinement import RECURSEED, SLIDES, SPA_CUB, SPA_ILSVRC, ScgConstants, correlate_levels, scg

VARIANTS = {"spa_cub": SPA_CUB, "spa_ilsvrc": SPA_ILSVRC, "recurseed": RECURSEED, "slides": SLIDES}
MEMORY = 2**28
"""Most bytes of correlation matrices at a time."""
_CONSTANTS = {"first_threshold", "second_threshold", "second_weight", "foreground", "background"}


def scg_constants(settings: Correlation) -> ScgConstants:
    """Constants of a variant, with those that are given in their place."""
    given = settings.model_dump(include=_CONSTANTS, exclude_none=True)
    return replace(VARIANTS[settings.variant], **given)


class Correlator:
    """Spreads the maps of a batch over what their seeds resemble.

    Parameters
    ----------
    network
        The network that is recorded.
    step
        Layers, variant and constants.
    """

    def __init__(self, network: ClassifierNetwork, step: ScgStep) -> None:
        self.layers, self.step = resolve_layers(network, step.layers), step
        self.constants = scg_constants(step)

    def __call__(self, seen: Record, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps ``[P, h, w]`` of several products, each correlated, ``[P, gh, gw]``; what is not finite stays so."""
        grid = common_grid(seen, self.layers, self.step.max_grid)
        rows = seen.pairs[:, 0].to(seen.logits.device)
        ranks = class_ranks(rows[:, None])
        coarse = {name: self._seeds(maps, grid) for name, maps in made.items()}
        broken = {name: ~maps.flatten(1).isfinite().all(dim=1) for name, maps in coarse.items()}
        coarse = {name: maps.masked_fill(broken[name][:, None, None], 0) for name, maps in coarse.items()}
        found = {name: torch.zeros_like(maps) for name, maps in coarse.items()}
        step = max(1, MEMORY // (4 * (grid[0] * grid[1]) ** 2))
        for start in range(0, len(seen.logits), step):
            inside = ((rows >= start) & (rows < start + step)).nonzero().squeeze(1)
            if not len(inside):
                continue
            correlation = self._correlation(seen, slice(start, start + step), grid)
            places = (rows[inside] - start, ranks[inside])
            for name, maps in coarse.items():
                stacked = maps.new_zeros(len(correlation), int(ranks[inside].max()) + 1, *grid)
                stacked[places] = maps[inside]
                found[name][inside] = self._spread(stacked, correlation)[places]
        return {name: maps.masked_fill(broken[name][:, None, None], torch.nan) for name, maps in found.items()}

    def _seeds(self, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """Maps on the grid in 0..1, negative values 0; RecurSeed divides by the maximum and leaves the minimum."""
        coarse = enlarge(maps.to(torch.float32).clamp(min=0), grid)
        if self.step.variant.startswith("spa"):
            return min_max(coarse)
        return coarse / coarse.amax((1, 2), keepdim=True).clamp(min=1e-12)

    def _correlation(self, seen: Record, part: slice, grid: tuple[int, int]) -> Tensor:
        levels = [seen.activations[layer][part].to(torch.float32) for layer in self.layers]
        return correlate_levels([resized(level, grid) for level in levels], self.constants, order=self.step.order)

    def _spread(self, maps: Tensor, correlation: Tensor) -> Tensor:
        constants = self.constants
        options = {"foreground": constants.foreground, "background": constants.background}
        return scg(maps, correlation, strict=constants.slides, **options)


def resized(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features ``[B, C, h, w]`` on another grid: averaged where it is coarser, bilinear where it is finer."""
    if features.shape[-2:] == grid:
        return features
    if features.shape[-2] >= grid[0] and features.shape[-1] >= grid[1]:
        return torch.nn.functional.adaptive_avg_pool2d(features, grid)
    return torch.nn.functional.interpolate(features, grid, mode="bilinear", align_corners=False)


def common_grid(seen: Record, layers: Sequence[str], limit: int) -> tuple[int, int]:
    """Size of the largest of some layers, no side above a limit."""
    height, width = max((tuple(seen.activations[one].shape[-2:]) for one in layers), key=lambda size: size[0] * size[1])
    factor = min(1.0, limit / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def correlation_grid(network: ClassifierNetwork, step: ScgStep, images: Tensor) -> tuple[int, int]:
    """Size of correlated maps for images like these."""
    layers = resolve_layers(network, step.layers)
    seen = record(network.model, images[:1], torch.tensor([[0, 0]]), layers, allow_zero_gradients=True)
    return common_grid(seen, layers, step.max_grid)
