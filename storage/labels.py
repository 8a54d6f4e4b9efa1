"""Label sets: masks and confidences of a stage by row of the image index, and a torch data set over them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from storage.arrays import ArraySpec
from storage.index import IGNORE, ImageIndex, Shard, read_index
from storage.indexed_images import read_row
from storage.stages import StageFolder, unit_name
from storage.workspace import Workspace

if TYPE_CHECKING:
    import torch

Mask = npt.NDArray[np.uint8]


def label_specs(
    index: ImageIndex, shard_images: int, names: Sequence[str] = ("label", "confidence")
) -> list[ArraySpec]:
    """Declarations of a label set's arrays: one per name and canvas. Missing labels read as ignore, confidence as 0."""
    return [
        ArraySpec(
            name=index.array_name(name, canvas),
            rows=count,
            item=canvas,
            shard_rows=shard_images,
            dtype="uint8",
            fill=IGNORE if name == "label" else 0,
        )
        for name in names
        for canvas, count in index.capacities.items()
    ]


def to_canvas(masks: dict[int, Mask], shard: Shard, fill: int) -> Mask:
    """Lay masks of a shard's rows onto its canvas, each in its place; all the rest holds ``fill``."""
    canvas = np.full((shard.offsets[-1] + 1, *shard.canvas), fill, np.uint8)
    for row, mask in masks.items():
        canvas[shard.offsets[row - shard.rows.start], : mask.shape[0], : mask.shape[1]] = mask
    return canvas


@dataclass(frozen=True)
class LabelStore:
    """The masks of one stage, read by row of the index; rows without a commit record are refused.

    Parameters
    ----------
    folder
        A stage that holds ``label`` arrays.
    index
        The image index it was made for.
    """

    folder: StageFolder
    index: ImageIndex

    @cached_property
    def _shards(self) -> list[Shard]:
        return self.index.shards(int(self.folder.manifest["basis"]["shard_images"]))

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        return np.asarray([shard.rows.start for shard in self._shards])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 1..C."""
        return self.index.classes

    def shard_of(self, row: int) -> Shard:
        """The shard that holds a row.

        Raises
        ------
        IndexError
            No such row; one below 0 would silently be another image's.
        """
        if not 0 <= row < len(self.index):
            raise IndexError(f"{self.folder.name}: expected a row 0 to {len(self.index) - 1}, saw {row}")
        return self._shards[int(np.searchsorted(self._starts, row, side="right")) - 1]

    def rows(self) -> list[int]:
        """Rows with a committed shard."""
        done = self.folder.log.units()
        return [row for shard in self._shards if unit_name(shard.number) in done for row in shard.rows]

    def shard_masks(self, shard: Shard, name: str = "label") -> Mask:
        """All of a shard on its canvas, (rows, H, W)."""
        start = shard.object * int(self.folder.manifest["basis"]["shard_images"])
        array = self.index.array_name(name, shard.canvas)
        masks = self.folder.rows(array, shard.number, start, start + shard.offsets[-1] + 1)
        return masks[list(shard.places)] if shard.places else masks

    def mask(self, row: int, name: str = "label") -> Mask:
        """One image's mask (or another array of the set) at the image's own size."""
        shard = self.shard_of(row)
        slot = int(self.index.slots[row])
        array = self.index.array_name(name, shard.canvas)
        height, width = self.index.sizes[row]
        return self.folder.rows(array, shard.number, slot, slot + 1)[0, :height, :width]

    def __iter__(self) -> Iterator[tuple[int, Mask]]:
        """Rows and masks of every committed image that is not quarantined, a shard at a time."""
        done = self.folder.log.units()
        for shard in self._shards:
            if unit_name(shard.number) not in done:
                continue
            masks = self.shard_masks(shard)
            for row in self.index.working_rows(shard):
                height, width = self.index.sizes[row]
                yield row, masks[row - shard.rows.start, :height, :width]


def open_labels(workspace: Workspace, stage: StageFolder | None = None) -> LabelStore:
    """Open a label set of a workspace; default: the first of the last run.

    Raises
    ------
    WorkspaceError
        Nothing has run there.
    """
    if stage is None:
        stage = StageFolder(workspace.root / "stages" / workspace.read_run()["labels"][0])
    return LabelStore(stage, read_index(index_of(workspace, stage)))


def index_of(workspace: Workspace, stage: StageFolder) -> Path:
    """The index that a stage was made for: kept beside the staged data set, so that later runs do not change it."""
    return workspace.root / "stages" / str(stage.manifest["index_stage"]) / "images.parquet"


class MaskDataset:
    """Images with their stored masks, as a map-style data set for :class:`torch.utils.data.DataLoader`.

    Parameters
    ----------
    store
        The label set.
    root
        Data root that the index's paths are relative to.
    splits
        Splits to take; default: all.
    transform
        Called with ``(image uint8 [3, H, W], mask uint8 [H, W])`` tensors, returns what the item shall be.
    """

    def __init__(
        self,
        store: LabelStore,
        root: Path,
        *,
        splits: Sequence[str] | None = None,
        transform: "Callable[[torch.Tensor, torch.Tensor], Any] | None" = None,
        max_pixels: int = 50_000_000,
    ) -> None:
        self.store, self.root, self.transform, self.max_pixels = store, root, transform, max_pixels
        index = store.index
        self.rows = [row for row in store.rows() if index.ok[row] and (splits is None or index.splits[row] in splits)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int) -> Any:
        """The image and mask of one row."""
        import torch

        row = self.rows[item]
        pixels = read_row(self.root, self.store.index, row, self.max_pixels).pixels
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        mask = torch.from_numpy(np.ascontiguousarray(self.store.mask(row)))
        return (image, mask) if self.transform is None else self.transform(image, mask)
