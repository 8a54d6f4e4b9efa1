"""Hand-made data sets for the tests of the tasks."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from storage.index import SCHEMA, ImageIndex, build_index


@dataclass
class Pictures:
    """A folder of images, their index, and their pixels."""

    root: Path
    index: ImageIndex
    pixels: list[np.ndarray]


@pytest.fixture(scope="session")
def index_of_labels() -> Callable[..., ImageIndex]:
    """An index of images of one size with the labels given, among the classes ``cat``, ``dog``, ``eel``."""

    def make(
        labels: Sequence[Sequence[str]],
        classes: Sequence[str] = ("cat", "dog", "eel"),
        splits: Sequence[str] | None = None,
        hashes: Sequence[str] | None = None,
    ) -> ImageIndex:
        rows = [
            {
                "image_id": f"i{number}",
                "path": f"i{number}.png",
                "split": splits[number] if splits else "train",
                "width": 12,
                "height": 10,
                "mode": "RGB",
                "sha256": hashes[number] if hashes else f"{number:064d}",
                "labels": list(names),
                "status": "ok",
                "reason": "",
                "orientation": 1,
                "bytes": 100,
            }
            for number, names in enumerate(labels)
        ]
        return build_index(pa.Table.from_pylist(rows, pa.schema(list(SCHEMA)[:12])), classes)

    return make


@pytest.fixture
def pictures(tmp_path: Path, index_of_labels: Callable[..., ImageIndex]) -> Pictures:
    """Seven images, cat and dog in turn, 10 pixels high and 12 wide."""
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (10, 12, 3), np.uint8) for _ in range(7)]
    hashes = []
    for number, one in enumerate(pixels):
        path = tmp_path / f"i{number}.png"
        Image.fromarray(one).save(path)
        hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
    labels = [["cat"] if number % 2 else ["dog"] for number in range(7)]
    return Pictures(tmp_path, index_of_labels(labels, ("cat", "dog"), hashes=hashes), pixels)
