"""What decoders learn from: images with their stored soft maps, or with a scored box and the attention that drew it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from methods.activation import enlarge, min_max
from storage.index import ImageIndex, read_index
from storage.labels import index_of
from storage.stages import FACTS, StageFolder
from storage.workspace import Workspace
from tasks.attend import ATTENTION, AttentionPlaces
from tasks.augment import draw_views
from tasks.engine import Batch, Batches, deal, step_seed
from tasks.images import ImageSource
from tasks.propose import SCORE
from tasks.refine import NONFINITE

Choice = dict[str, Any]


class TeacherError(ValueError):
    """Maps or boxes that a decoder cannot learn from."""


class Lesson(NamedTuple):
    """What one image is taught by: a map ``(1, S, S)`` in 0..1, a box (4,) on that square, a class from 0."""

    map: Tensor
    box: Tensor
    label: int


class Teacher(Protocol):
    """Gives lessons of images, drawn anew in every epoch."""

    rows: list[int]

    def draw(self, rows: Sequence[int], generator: torch.Generator) -> list[Choice]:
        """What each of these images is taught by."""

    def lesson(self, choice: Choice, side: int) -> Lesson:
        """Read it, for an image resized to ``side`` pixels square."""


def check_teacher(folder: StageFolder, index: ImageIndex, index_stage: str, where: str) -> None:
    """Refuse maps of another data set, or that are not whole.

    Raises
    ------
    TeacherError
        They are; the message names the folder and what was seen.
    """
    if not folder.complete:
        raise TeacherError(f"{where}: expected a finished {folder.name}, shards are missing; run `maskmill propose`")
    manifest = folder.manifest
    if tuple(manifest["classes"]) != index.classes:
        absent = sorted(set(index.classes) - set(manifest["classes"]))
        raise TeacherError(
            f"{where}: expected maps of the classes {', '.join(index.classes)} in {folder.name}, saw "
            f"{', '.join(manifest['classes'])}" + (f"; {', '.join(absent)} are missing" if absent else "")
        )
    if manifest["index_stage"] != index_stage and not _same_rows(folder, index):
        raise TeacherError(
            f"{where}: expected maps made for {index_stage}, {folder.name} was made for {manifest['index_stage']}: "
            "its rows are those of other images"
        )


def require_lessons(
    teacher: Teacher, rows: Sequence[int], splits: Sequence[str], folder: StageFolder, where: str
) -> None:
    """Refuse a teacher that can teach less than two of ``rows``, the images of some splits.

    Raises
    ------
    TeacherError
        It does; the message tells how many it has.
    """
    if len(teacher.rows) < 2:
        raise TeacherError(
            f"{where}: expected at least two images to learn from in {', '.join(splits)}, saw "
            f"{len(teacher.rows)} of {len(rows)} with labels and finite maps in {folder.name}"
        )


def _same_rows(folder: StageFolder, index: ImageIndex) -> bool:
    """Whether a store was made when the data set was staged in another way (with other masks) but with this index."""
    path = index_of(Workspace(folder.folder.parents[1]), folder)
    return path.exists() and read_index(path).key == index.key


class MapTeacher:
    """Soft maps of a proposal: in an image with several labels, that of one drawn at random.

    Images without labels, or with a map that is not finite, teach nothing and are left out of :attr:`rows`.
    """

    def __init__(self, proposal: StageFolder, rows: Sequence[int]) -> None:
        self._proposal = proposal
        self._room = proposal.spec(SCORE).shard_rows
        self._pairs = by_row(proposal, ["row", "class_id", "pair", "flag"])
        broken = {row for row, pairs in self._pairs.items() if any(one["flag"] == NONFINITE for one in pairs)}
        self.rows = [row for row in rows if row in self._pairs and row not in broken]

    def draw(self, rows: Sequence[int], generator: torch.Generator) -> list[Choice]:
        """One pair of each image."""
        return draw_each([self._pairs[row] for row in rows], generator)

    def lesson(self, choice: Choice, side: int) -> Lesson:
        """Its map, min-max normalised; the box is the whole image."""
        pair = choice["pair"]
        stored = self._proposal.rows(SCORE, pair // self._room, pair, pair + 1)
        maps = min_max(enlarge(torch.from_numpy(stored.astype(np.float32)), (side, side)))
        return Lesson(maps, torch.tensor([0, 0, side, side]), choice["class_id"] - 1)

    def every(self, row: int, side: int) -> Tensor:
        """Maps ``(K, S, S)`` of all labels of an image, each min-max normalised, in the order of class ids."""
        pairs = [one["pair"] for one in self._pairs[row]]
        first, last = min(pairs), max(pairs)
        stored = self._proposal.rows(SCORE, first // self._room, first, last + 1)[[pair - first for pair in pairs]]
        return min_max(enlarge(torch.from_numpy(stored.astype(np.float32)), (side, side)))


class BoxTeacher:
    """Boxes around attention: one of the ``top`` that the classifier likes best, drawn uniformly.

    Images without a box are left out of :attr:`rows`.
    """

    def __init__(self, regions: StageFolder, attended: StageFolder, rows: Sequence[int], top: int) -> None:
        self._places = AttentionPlaces(attended)
        self._attended = attended
        found = by_row(regions, ["row", "class_id", "head", "side", "x0", "y0", "x1", "y1", "rank"])
        self._boxes = {row: kept for row, boxes in found.items() if (kept := [b for b in boxes if b["rank"] < top])}
        self.rows = [row for row in rows if row in self._boxes]

    def draw(self, rows: Sequence[int], generator: torch.Generator) -> list[Choice]:
        """One box of each image."""
        return draw_each([self._boxes[row] for row in rows], generator)

    def lesson(self, choice: Choice, side: int) -> Lesson:
        """The attention of the head that drew the box, divided by its maximum."""
        place, shard = self._places.of(choice["row"], choice["head"])
        stored = self._attended.rows(ATTENTION, shard, place, place + 1)
        maps = enlarge(torch.from_numpy(stored.astype(np.float32)), (side, side))
        corners = [choice[name] * side / choice["side"] for name in ("x0", "y0", "x1", "y1")]
        # Outwards: a box never loses a pixel that it had.
        box = [int(np.floor(one)) for one in corners[:2]] + [int(np.ceil(one)) for one in corners[2:]]
        return Lesson(maps / maps.amax().clamp(min=1e-12), torch.tensor(box), choice["class_id"] - 1)


def by_row(folder: StageFolder, columns: list[str]) -> dict[int, list[Choice]]:
    """Rows of a stage's facts by image."""
    found: dict[int, list[Choice]] = {}
    for fact in folder.table(FACTS, columns).to_pylist():
        found.setdefault(fact["row"], []).append(fact)
    return found


def draw_each(options: Sequence[list[Choice]], generator: torch.Generator) -> list[Choice]:
    """One option of each, uniformly."""
    chances = torch.rand(len(options), generator=generator, dtype=torch.float64).tolist()
    return [found[int(chance * len(found))] for found, chance in zip(options, chances, strict=True)]


def lesson_batches(
    source: ImageSource, teacher: Teacher, *, batch_size: int, resize: int, size: int, flip: bool, seed: int
) -> Batches:
    """Batches of crops with their lessons, shuffled and drawn anew in each epoch; image, map and box turn alike.

    Tensors: ``pixels`` uint8 ``(B, 3, S, S)``, ``maps`` float32 ``(B, S, S)``, ``boxes`` int64 ``(B, 4)``, ``labels``
    int64 ``(B,)``. A last batch of one image is left out: batch norms need two.
    """

    def batches(epoch: int) -> tuple[Iterator[Batch], int]:
        generator = torch.Generator().manual_seed(step_seed(seed, epoch))
        places, part, steps = deal(len(teacher.rows), batch_size, generator)
        rows = [teacher.rows[place] for place in places]
        choices = teacher.draw(rows, generator)

        def load(place: int) -> tuple[Tensor, Lesson]:
            return source.square(rows[place], resize), teacher.lesson(choices[place], resize)

        def run() -> Iterator[Batch]:
            for places, loaded in source.groups(range(len(rows)), part, load):
                yield Batch([rows[place] for place in places], _cropped(loaded, size, generator, flip=flip))

        return run(), steps

    return batches


def _cropped(
    loaded: Sequence[tuple[Tensor, Lesson]], size: int, generator: torch.Generator, *, flip: bool
) -> dict[str, Tensor]:
    pixels = torch.stack([image for image, _ in loaded])
    side = (pixels.shape[2], pixels.shape[3])
    views = draw_views(len(pixels), side, size, generator, flip=flip, vertical=False)
    return {
        "pixels": views.crop(pixels),
        "maps": views.crop(torch.stack([lesson.map for _, lesson in loaded]))[:, 0],
        "boxes": views.boxes(torch.stack([lesson.box for _, lesson in loaded])),
        "labels": torch.tensor([lesson.label for _, lesson in loaded]),
    }
