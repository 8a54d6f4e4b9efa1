"""Schema of the ``refine`` section: an ordered list that leads from soft maps to labels.

First come steps that change maps, then exactly one that decides labels, then steps that change labels.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from configs.dataset import Section
from configs.proposals import Layers

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Kind = Literal["map", "decide", "label"]


class Correlation(Section):
    """Which places resemble one another, and which of them spread a map."""

    variant: Literal["recurseed", "spa_cub", "spa_ilsvrc", "slides"] = "recurseed"
    """Whose constants; those given here replace them one by one."""
    first_threshold: Fraction | None = None
    second_threshold: Fraction | None = None
    second_weight: float | None = Field(default=None, ge=0)
    foreground: Fraction | None = None
    """Places of a normalised map that count as seeds."""
    background: Fraction | None = None


class ScgStep(Correlation):
    """Self-correlation: spread each map over what its strong places resemble. Must be the first step.

    It needs the network's features and is therefore done in the pass that makes the maps, on the grid of the largest of
    its layers.
    """

    step: Literal["scg"]
    layers: Layers = Field(default=["S4", "S5"])
    """Stage or module names whose correlations are summed."""
    order: int = Field(default=2, ge=1, le=8)
    max_grid: int = Field(default=28, ge=2, le=128)
    """Longest side of the grid; features of finer stages are resized to it. Memory grows with its fourth power."""


class PamrStep(Section):
    """Pixel-adaptive refinement: average maps over neighbours of like colour, at the image's resolution."""

    step: Literal["pamr"]
    iterations: int = Field(default=10, ge=1, le=1000)
    dilations: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(default=[1, 2, 4, 8, 12, 24])
    tile: int = Field(default=1024, ge=16)
    """Larger images are refined in tiles of this side, with the same result."""


class RandomWalkStep(Section):
    """Random walk over affinities that image edges cut, on a coarse grid."""

    step: Literal["random_walk"]
    side: int = Field(default=56, ge=8, le=512)
    """Longest side of the grid."""
    radius: int = Field(default=5, ge=2)
    beta: float = Field(default=10.0, gt=0)
    log2_steps: int = Field(default=8, ge=0, le=16)


class DenseCrfStep(Section):
    """Mean field of a fully connected conditional random field; needs the package pydensecrf."""

    step: Literal["dense_crf"]
    iterations: int = Field(default=10, ge=1, le=100)
    gaussian_sigma: float = Field(default=3.0, gt=0)
    gaussian_weight: float = Field(default=3.0, ge=0)
    bilateral_sigma_xy: float = Field(default=80.0, gt=0)
    bilateral_sigma_rgb: float = Field(default=13.0, gt=0)
    bilateral_weight: float = Field(default=10.0, ge=0)


class OtsuStep(Section):
    """Split every map at its own Otsu threshold."""

    step: Literal["otsu"]


class ThresholdStep(Section):
    """Split every min-max normalised map at one value; .2 is the 20 % rule."""

    step: Literal["threshold"]
    value: Fraction = 0.2


class CertainFilterStep(Section):
    """Label only what is certain; the rest is 255."""

    step: Literal["certain_filter"]
    foreground: Fraction = 0.55
    background: Fraction = 0.10


class EdgePredictStep(Section):
    """Fill 255 inside regions that edges enclose, and make edges of the background 255."""

    step: Literal["edge_predict"]
    source: Literal["mask", "image"] = "mask"
    """Edges of the strongest map, or of the image."""


class CleanUpStep(Section):
    """Remove specks and fill holes of the label map."""

    step: Literal["clean_up"]
    min_share: Fraction = 0.001
    """Components smaller than this share of the image become background."""
    fill_holes: bool = True


Step = Annotated[
    ScgStep
    | PamrStep
    | RandomWalkStep
    | DenseCrfStep
    | OtsuStep
    | ThresholdStep
    | CertainFilterStep
    | EdgePredictStep
    | CleanUpStep,
    Field(discriminator="step"),
]
KINDS: dict[str, Kind] = {
    "scg": "map",
    "pamr": "map",
    "random_walk": "map",
    "dense_crf": "map",
    "otsu": "decide",
    "threshold": "decide",
    "certain_filter": "decide",
    "edge_predict": "label",
    "clean_up": "label",
}
LOOKS_AT_IMAGE = frozenset({"pamr", "random_walk", "dense_crf", "edge_predict"})
_ORDER: tuple[Kind, ...] = ("map", "decide", "label")


def check_order(steps: list[Any]) -> None:
    """Refuse a list of steps that cannot be done in its order.

    Raises
    ------
    ValueError
        Not exactly one deciding step, a step after a later kind, or scg not first.
    """
    names = [one.step for one in steps]
    kinds = [KINDS[name] for name in names]
    seen = ", ".join(names)
    if kinds.count("decide") != 1:
        expected = ", ".join(name for name, kind in KINDS.items() if kind == "decide")
        raise ValueError(f"refine: expected exactly one step of {expected}; saw {seen}")
    if kinds != sorted(kinds, key=_ORDER.index):
        before = ", ".join(name for name, kind in KINDS.items() if kind == "map")
        after = ", ".join(name for name, kind in KINDS.items() if kind == "label")
        raise ValueError(f"refine: expected {before} before the deciding step and {after} after it; saw {seen}")
    if "scg" in names[1:]:
        raise ValueError(f"refine: expected scg once and first, for it needs the network's features; saw {seen}")


def prefixes(steps: Sequence[Step], *, every: bool = True) -> list[tuple[str, tuple[Step, ...]]]:
    """The label sets that a list of steps passes through, named as metric rows name their stage.

    ``cam`` is the deciding step alone; then one set per step that is added, named after it (``pamr-2`` where it comes
    a second time); the last, of the whole list, is ``mask``. Without ``every``, that one only.

    Examples
    --------
    >>> [name for name, _ in prefixes([PamrStep(step="pamr"), OtsuStep(step="otsu"), CleanUpStep(step="clean_up")])]
    ['cam', 'pamr', 'mask']
    """
    kinds = [KINDS[one.step] for one in steps]
    place = kinds.index("decide")
    chains: list[tuple[str, tuple[Step, ...]]] = [("cam", (steps[place],))]
    chains += [(steps[n].step, (*steps[: n + 1], steps[place])) for n in range(place)]
    chains += [(steps[n].step, tuple(steps[: n + 1])) for n in range(place + 1, len(steps))]
    seen: Counter[str] = Counter()
    named: list[tuple[str, tuple[Step, ...]]] = []
    for name, chain in chains[:-1]:
        seen[name] += 1
        named.append((name if seen[name] == 1 else f"{name}-{seen[name]}", chain))
    last = ("mask", tuple(steps))
    return [*named, last] if every else [last]
