"""The refinement of one image, step by step: maps, then labels, then better labels."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from configs import ConfigError, RunConfig
from configs.refine import (
    KINDS,
    CertainFilterStep,
    CleanUpStep,
    DenseCrfStep,
    EdgePredictStep,
    OtsuStep,
    PamrStep,
    RandomWalkStep,
    ScgStep,
    Step,
    ThresholdStep,
)
from methods.activation import enlarge, min_max
from methods.refinement import (
    canny,
    certain_filter,
    clean_up,
    dense_crf,
    edge_predict,
    merge_classes,
    otsu_thresholds,
    pamr,
    random_walk,
)

IGNORE = 255
Pixels = npt.NDArray[np.uint8]


class StepError(ValueError):
    """A step that failed on one image; ``step`` is its name."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step, self.reason = step, reason


@dataclass(frozen=True)
class Decision:
    """Labels and confidence ``[H, W]`` uint8 of one image, and each map's threshold on the 0..255 grid."""

    label: Tensor
    confidence: Tensor
    thresholds: list[int]


@dataclass
class Chain:
    """One image on its way through a list of steps; what earlier prefixes have computed is kept.

    Parameters
    ----------
    pixels
        ``(H, W, 3)`` RGB; read only by steps that look at the image.
    classes
        Ids of the maps' classes, 1..C, one per map.
    maps
        Maps ``[K, H, W]`` in 0..1 at the image's size: those of the method, before any step.
    correlated
        The same after self-correlation, which only the network's features can give.
    """

    pixels: Pixels
    classes: Tensor
    maps: Tensor
    correlated: Tensor | None = None
    _made: dict[int, Tensor] = field(default_factory=dict)

    def decide(self, steps: Sequence[Step]) -> Decision:
        """Labels after all of ``steps``.

        Raises
        ------
        StepError
            A step failed, or its result is not finite.
        """
        soft = [one for one in steps if KINDS[one.step] == "map"]
        decider, maps = steps[len(soft)], self.refined(soft)
        with naming(decider.step):
            found = _decide(decider, maps, self.classes)
        for one in steps[len(soft) + 1 :]:
            with naming(one.step):
                found = self._relabel(one, found, maps)
        return found

    def refined(self, soft: Sequence[Step]) -> Tensor:
        """Maps ``[K, H, W]`` in 0..1 after some steps on maps; a chain is asked about prefixes of one list."""
        maps = self.maps
        for number, one in enumerate(soft):
            if number not in self._made:
                with naming(one.step):
                    self._made[number] = _finite(self._refine(one, maps))
            maps = self._made[number]
        return maps

    def _refine(self, one: Step, maps: Tensor) -> Tensor:
        if isinstance(one, ScgStep):
            if self.correlated is None:
                raise ValueError("expected self-correlated maps from the pass that made the maps, found none")
            return self.correlated
        if not len(maps):
            return maps
        match one:
            case PamrStep():
                return min_max(_pamr(one, self.pixels, maps))
            case RandomWalkStep():
                return min_max(_walk(one, self.pixels, maps))
            case DenseCrfStep():
                return _crf(one, self.pixels, maps)
        raise ValueError(f"expected a step on maps, got {one.step}")

    def _relabel(self, one: Step, found: Decision, maps: Tensor) -> Decision:
        match one:
            case EdgePredictStep():
                edges = canny(_edge_source(one, self.pixels, maps))
                label = edge_predict(found.label[None], edges)[0]
            case CleanUpStep():
                label = clean_up(found.label[None], min_share=one.min_share, fill_holes=one.fill_holes)[0]
            case _:
                raise ValueError(f"expected a step on labels, got {one.step}")
        # How sure the maps were says nothing about a pixel that was decided by its surroundings.
        confidence = torch.where(label == found.label, found.confidence, torch.zeros_like(found.confidence))
        return Decision(label, confidence, found.thresholds)


def check_packages(config: RunConfig) -> None:
    """Refuse steps whose optional package is missing, before any work.

    Raises
    ------
    ConfigError
        Names the step and the package.
    """
    for number, one in enumerate(config.refine):
        if isinstance(one, DenseCrfStep) and find_spec("pydensecrf") is None:
            raise ConfigError(
                f"refine.{number}: dense_crf expected the package pydensecrf, found none; install it, or use pamr"
            )


@contextmanager
def naming(step: str) -> Iterator[None]:
    """Name the step that an image fails at; trouble with files and memory is not the image's."""
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError, StepError):
        raise
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise StepError(step, str(error)) from error


def _finite(maps: Tensor) -> Tensor:
    if not maps.isfinite().all():
        raise ValueError("expected finite maps, the step gave NaN or infinity")
    return maps


def _decide(one: Step, maps: Tensor, classes: Tensor) -> Decision:
    match one:
        case OtsuStep():
            thresholds = otsu_thresholds(maps)
        case ThresholdStep(value=value):
            thresholds = _fixed(maps, value)
        case CertainFilterStep():
            return _certain(one, maps, classes)
        case _:
            raise ValueError(f"expected a step that decides labels, got {one.step}")
    label, confidence = merge_classes(maps, thresholds, classes)
    return Decision(label, confidence, thresholds.tolist())


def _fixed(maps: Tensor, value: float) -> Tensor:
    """One threshold for all maps on the 0..255 grid, -1 for a constant one."""
    flat = maps.flatten(1)
    constant = flat.amax(1) == flat.amin(1) if len(flat) else torch.zeros(0, dtype=torch.bool)
    return torch.where(constant, -1, torch.full((len(maps),), int(255 * value), dtype=torch.int64))


def _certain(one: CertainFilterStep, maps: Tensor, classes: Tensor) -> Decision:
    if not len(maps):
        label, confidence = merge_classes(maps, _fixed(maps, one.foreground), classes)
        return Decision(label, confidence, [])
    places = certain_filter(maps[None], foreground=one.foreground, background=one.background)[0]
    names = torch.cat([torch.zeros(1, dtype=torch.uint8), classes.to(torch.uint8)])
    label = torch.where(places == IGNORE, IGNORE, names[places.where(places != IGNORE, 0).long()]).to(torch.uint8)
    strongest = maps.amax(0)
    sure = torch.where(label == 0, 1 - strongest, strongest).masked_fill(label == IGNORE, 0)
    thresholds = _fixed(maps, one.foreground)
    if (thresholds < 0).any():  # what is left over may be the class that has no place
        label = torch.where(label == 0, IGNORE, label).to(torch.uint8)
    return Decision(label, (255 * sure).round().to(torch.uint8), thresholds.tolist())


def _image(pixels: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def _pamr(one: PamrStep, pixels: Pixels, maps: Tensor) -> Tensor:
    image = _image(pixels).to(torch.float32) / 255
    tile = one.tile if max(maps.shape[1:]) > one.tile else None
    return pamr(image, maps[None], iterations=one.iterations, dilations=one.dilations, tile=tile)[0]


def _walk(one: RandomWalkStep, pixels: Pixels, maps: Tensor) -> Tensor:
    height, width = maps.shape[1:]
    factor = min(1.0, one.side / max(height, width))
    grid = (max(1, round(height * factor)), max(1, round(width * factor)))
    edges = canny(_image(pixels))[:, None].to(torch.float32)
    coarse = torch.nn.functional.adaptive_max_pool2d(edges, grid)[0, 0]
    walked = random_walk(enlarge(maps, grid), coarse, radius=one.radius, beta=one.beta, log2_steps=one.log2_steps)
    return enlarge(walked, (height, width))


def _crf(one: DenseCrfStep, pixels: Pixels, maps: Tensor) -> Tensor:
    background = (1 - maps.amax(0, keepdim=True)).clamp(min=0)
    scores = torch.cat([background, maps])
    options = one.model_dump(exclude={"step"})
    found = dense_crf(_image(pixels), (scores / scores.sum(0, keepdim=True))[None], **options)
    return found[0, 1:].clamp(0, 1)


def _edge_source(one: EdgePredictStep, pixels: Pixels, maps: Tensor) -> Tensor:
    """What Canny looks at: the image, or the strongest map as a grey picture."""
    if one.source == "image" or not len(maps):
        return _image(pixels)
    return (255 * maps.amax(0)).round().to(torch.uint8)[None, None]
