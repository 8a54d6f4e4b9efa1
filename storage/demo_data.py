"""Demo data: a small multi-label data set with exact masks, made from pictures that scikit-image ships.

Objects are patches of four real textures cut to random shapes and laid on photographs. Both splits take their textures
and photographs from different parts of the source pictures. Nothing is downloaded.
"""

import csv
import io
import json
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from storage.exporters.palette import voc_palette

CLASSES = ("brick", "coins", "grass", "gravel")
"""Class names in the order of the ids 1..4 in the masks; each is the name of its source picture."""
BACKGROUNDS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
MARKER = "demo.json"
TABLE = "labels.csv"
_RECIPE = 1  # raise when the same parameters begin to give other pictures
_TRAIN_SHARE = 0.6  # of each source picture, from the left; val takes the rest
_EMPTY_SHARE = 0.08
_LARGEST = {1: 0.30, 2: 0.22, 3: 0.16}
_SMALLEST = 0.05
_TRIES = 60

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]


def make_demo(folder: Path, *, images: int = 400, size: int = 160, seed: int = 0) -> Path:
    """Write the demo data set, or return at once if it is there.

    Layout: ``labels.csv`` (columns path, labels joined by ``;``, mask, split), ``images/*.jpg`` and ``masks/*.png``
    (palette; 0 background, 1..4 class). Three of four images are in split ``train``, the others in ``val``; about one
    in twelve shows no object. The folder appears complete or not at all.

    Parameters
    ----------
    folder
        Where to write; its parent is made if needed.
    images
        Number of images, at least 1. The first n images of a larger set are those of a smaller one.
    size
        Side of the square images in pixels, 64 to 512.
    seed
        Non-negative. The same parameters and library versions give the same bytes.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    ValueError
        A parameter out of range.
    FileExistsError
        The folder holds something else, or a demo with other parameters.
    """
    if images < 1 or not 64 <= size <= 512 or seed < 0:
        raise ValueError(
            f"expected images >= 1, 64 <= size <= 512, seed >= 0, got images={images}, size={size}, seed={seed}"
        )
    marker = json.dumps({"images": images, "recipe": _RECIPE, "seed": seed, "size": size}, sort_keys=True) + "\n"
    if _is_complete(folder, marker):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A dot-prefixed sibling: the final rename stays on one file system, and readers skip what a crash leaves.
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(partial, images, size, seed)
        (partial / MARKER).write_text(marker, encoding="utf-8")
        partial.chmod(0o755)
        try:
            partial.replace(folder)
        except OSError:
            # Another process may have finished the same demo first.
            if not _is_complete(folder, marker):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_complete(folder: Path, marker: str) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = (folder / MARKER).read_text(encoding="utf-8")
    except OSError:
        raise FileExistsError(
            f"{folder}: expected no such folder, an empty one or a demo, found other content"
        ) from None
    if found != marker:
        raise FileExistsError(
            f"{folder}: expected a demo made with {marker.strip()}, found {found.strip()}; "
            "remove it or name another folder"
        )
    return True


def _write(folder: Path, images: int, size: int, seed: int) -> None:
    sources = {split: _Sources.load(split) for split in ("train", "val")}
    palette = voc_palette().tobytes()
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("path", "labels", "mask", "split"))
    for index in range(images):
        split = "val" if index % 4 == 3 else "train"
        pixels, mask = _scene(sources[split], size, np.random.default_rng((seed, index)))
        path, mask_path = f"images/{index:05d}.jpg", f"masks/{index:05d}.png"
        Image.fromarray(pixels).save(folder / path, quality=92)
        indexed = Image.fromarray(mask)
        indexed.putpalette(palette)
        indexed.save(folder / mask_path)
        names = [CLASSES[i - 1] for i in np.unique(mask) if i]
        rows.writerow((path, ";".join(names), mask_path, split))
    (folder / TABLE).write_text(table.getvalue(), encoding="utf-8", newline="")


@dataclass(frozen=True)
class _Sources:
    """The parts of the source pictures that one split may use."""

    textures: list[Image.Image]
    backgrounds: list[Image.Image]

    @classmethod
    def load(cls, split: str) -> "_Sources":
        return cls(
            [_part(f"{name}.png", split) for name in CLASSES],
            [_part(name, split) for name in BACKGROUNDS],
        )


def _part(name: str, split: str) -> Image.Image:
    with (resources.files("skimage") / "data" / name).open("rb") as file:
        picture = Image.open(file).convert("RGB")
    cut = round(picture.width * _TRAIN_SHARE)
    left, right = (0, cut) if split == "train" else (cut, picture.width)
    return picture.crop((left, 0, right, picture.height))


def _scene(sources: _Sources, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    background = sources.backgrounds[rng.integers(len(sources.backgrounds))]
    scene = _lit(_crop(background, size, size, rng.uniform(1.0, 2.2), rng), rng)
    mask = np.zeros((size, size), dtype=np.uint8)
    count = 0 if rng.random() < _EMPTY_SHARE else int(rng.choice((1, 2, 3), p=(0.5, 0.35, 0.15)))
    for label in rng.permutation(len(CLASSES))[:count] + 1:
        shape = _place(mask > 0, _LARGEST[count], rng)
        if shape is not None:
            scene = _lay(scene, shape, sources.textures[label - 1], rng)
            mask[shape] = label
    return np.clip(scene + rng.normal(0, 2.0, scene.shape), 0, 255).astype(np.uint8), mask


def _place(taken: Mask, largest: float, rng: np.random.Generator) -> Mask | None:
    """A random shape that leaves a gap to the others; its visible area is 5 to 30 % of the image."""
    size = len(taken)
    gap = np.asarray(Image.fromarray(taken).convert("L").filter(ImageFilter.MaxFilter(7))) > 0
    for _ in range(_TRIES):
        points = _outline(rng.uniform(_SMALLEST, largest) * size**2, rng) + rng.uniform(0.12, 0.88, 2) * size
        canvas = Image.new("1", (size, size))
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in points.tolist()], fill=1)
        shape: Mask = np.asarray(canvas)
        if _SMALLEST <= shape.mean() <= largest and not (shape & gap).any():
            return shape
    return None


def _outline(area: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points around the origin of an ellipse, a smooth blob or a polygon, ``(n, 2)``."""
    kind = rng.integers(3)
    if kind == 2:
        corners = int(rng.integers(4, 8))
        angle = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * 2 * np.pi / corners
        radius = rng.uniform(0.75, 1.15, corners)
    else:
        angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        radius = np.ones(96)
        for wave in range(2, 6) if kind == 1 else ():
            radius += rng.uniform(0, 0.35 / wave**0.7) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    stretch, turn = rng.uniform(0.6, 1.0), rng.uniform(0, 2 * np.pi)
    x, y = radius * np.cos(angle), radius * np.sin(angle) * stretch
    points = np.stack((x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)), axis=1)
    closed = np.vstack((points, points[:1]))
    covered = sum(a[0] * b[1] - a[1] * b[0] for a, b in pairwise(closed)) / 2  # the shoelace formula
    return np.asarray(points * np.sqrt(area / covered))


def _lay(scene: Pixels, shape: Mask, texture: Image.Image, rng: np.random.Generator) -> Pixels:
    """The scene with a texture laid on it: soft edge, soft shadow below it."""
    size = len(shape)
    rows, columns = (np.flatnonzero(shape.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
    patch = np.zeros_like(scene)
    patch[top : top + height, left : left + width] = _lit(
        _crop(texture, width, height, rng.uniform(1.2, 2.2), rng), rng
    )
    cover = Image.fromarray(shape).convert("L")
    alpha = np.asarray(cover.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32)[..., None] / 255
    alpha *= shape[..., None]  # no texture outside of the mask
    blurred = np.asarray(cover.filter(ImageFilter.GaussianBlur(size / 50)), dtype=np.float32)[..., None] / 255
    shadow = 1 - 0.35 * np.roll(blurred, (size // 60, size // 60), axis=(0, 1))
    return np.asarray(alpha * patch + (1 - alpha) * shadow * scene, dtype=np.float32)


def _crop(picture: Image.Image, width: int, height: int, scale: float, rng: np.random.Generator) -> Pixels:
    """A random part of ``width * scale`` by ``height * scale`` pixels, resized by 1 / scale, mirrored at random."""
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = min(scale, picture.width / width, picture.height / height)
    left = rng.uniform(0, picture.width - width * scale)
    top = rng.uniform(0, picture.height - height * scale)
    box = (left, top, left + width * scale, top + height * scale)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.float32)


def _lit(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The pixels under another light: brightness, a slight tint, and a gradient in a random direction."""
    height, width = pixels.shape[:2]
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    turn = rng.uniform(0, 2 * np.pi)
    slope = 1 + rng.uniform(0, 0.25) * (x * np.cos(turn) + y * np.sin(turn))
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.85, 1.15, 3)
    return np.asarray(np.clip(pixels * slope[..., None] * gain, 0, 255), dtype=np.float32)
