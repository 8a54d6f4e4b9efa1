import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from storage.boxes import BOXES, SCHEMA, BoxStore, boxes_digest, boxes_table, boxes_text, upright_boxes
from storage.decode import decode_image
from storage.index import ImageIndex
from storage.samples import StagingError
from storage.stages import StageError
from storage.workspace import Workspace

TEXT = boxes_text([(2, 1, 2, 4, 3)], (5, 8))


class TestUprightBoxes:
    def test_smoke(self) -> None:
        boxes = upright_boxes(TEXT, (5, 8), orientation=1, classes=2, source="")
        assert boxes.dtype == np.int64
        assert boxes.tolist() == [[1, 2, 4, 3, 2]]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_boxes_turn_with_their_pixels(self, orientation: int) -> None:
        pixels = np.zeros((5, 8), np.uint8)
        pixels[2:3, 1:4] = 255
        exif = Image.Exif()
        exif[0x112] = orientation
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", exif=exif)
        upright = decode_image(file.getvalue(), 100).pixels[..., 0]
        ((x0, y0, x1, y1, _),) = upright_boxes(
            TEXT, (upright.shape[0], upright.shape[1]), orientation=orientation, classes=2, source=""
        ).tolist()
        expected = np.zeros_like(upright)
        expected[y0:y1, x0:x1] = 255
        np.testing.assert_array_equal(upright, expected)

    def test_boxes_of_the_upright_image_stay(self) -> None:
        text = boxes_text([(1, 1, 2, 4, 3)], (8, 5))
        assert upright_boxes(text, (8, 5), orientation=6, classes=1, source="").tolist() == [[1, 2, 4, 3, 1]]

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            (boxes_text([], (8, 5)), r"l\.txt:3: expected boxes for an image of 8 x 5, the lists say 5 x 8; was the"),
            (boxes_text([(1, 0, 0, 9, 5)], (5, 8)), r"l\.txt:3: box 1: .* image of 8 x 5, saw 0, 0, 9, 5"),
            (boxes_text([(1, 0, 0, 8, 5), (1, 3, 0, 2, 5)], (5, 8)), r"box 2: expected .* x0 <= x1"),
            (boxes_text([(3, 0, 0, 8, 5)], (5, 8)), r"box 1: expected a class id 1\.\.2, saw 3"),
        ],
    )
    def test_refusals(self, text: str, match: str) -> None:
        with pytest.raises(StagingError, match=match):
            upright_boxes(text, (5, 8), orientation=1, classes=2, source="l.txt:3")


class TestBoxStore:
    @pytest.fixture
    def index(self, index_of_sizes: Callable[..., ImageIndex]) -> ImageIndex:
        return index_of_sizes([(5, 8), (5, 8), None, (5, 8)])

    @pytest.fixture
    def sources(self) -> pa.Table:
        texts = [boxes_text([(1, 0, 0, 8, 5), (2, 1, 1, 2, 2)], (5, 8)), "", TEXT, TEXT]
        return pa.table({"source": ["l:1", "l:2", "l:3", "l:4"], BOXES: texts, "orientation": [1, 1, None, None]})

    def store(self, workspace: Workspace, index: ImageIndex, sources: pa.Table, shards: int = 2) -> BoxStore:
        folder = workspace.stage(BOXES, "a" * 12)
        folder.begin({"of": "a test"}, shards=2, classes=index.classes)
        for shard in index.shards(2)[:shards]:
            table = boxes_table(index, sources, index.working_rows(shard))
            assert table.schema == SCHEMA
            folder.write(shard.number, tables={BOXES: table})
        return BoxStore(folder, index)

    def test_smoke(self, workspace: Workspace, index: ImageIndex, sources: pa.Table) -> None:
        store = self.store(workspace, index, sources)
        assert store.rows() == [0, 3]
        assert store.boxes(0).tolist() == [[0, 0, 8, 5], [1, 1, 2, 2]]
        assert store.class_ids(0).tolist() == [1, 2]

    def test_rows_without_boxes(self, workspace: Workspace, index: ImageIndex, sources: pa.Table) -> None:
        store = self.store(workspace, index, sources)
        for row in (1, 2):
            assert store.boxes(row).shape == (0, 4)
        nothing = sources.set_column(1, BOXES, pa.array([""] * 4))
        assert self.store(Workspace(workspace.root / "none"), index, nothing).rows() == []

    def test_refuses_a_stage_that_is_not_whole(
        self, workspace: Workspace, index: ImageIndex, sources: pa.Table
    ) -> None:
        with pytest.raises(StageError, match="expected 2 committed shards, 1 are missing"):
            self.store(workspace, index, sources, shards=1).boxes(0)

    @pytest.mark.parametrize("row", [-1, 4])
    def test_refuses_unknown_rows(self, workspace: Workspace, index: ImageIndex, sources: pa.Table, row: int) -> None:
        with pytest.raises(IndexError, match=f"expected a row 0 to 3, saw {row}"):
            self.store(workspace, index, sources).boxes(row)

    def test_digest(self, sources: pa.Table) -> None:
        nothing = sources.set_column(1, BOXES, pa.array([""] * 4))
        assert boxes_digest(nothing) == ""
        assert len({boxes_digest(sources), boxes_digest(sources.take([1, 0, 2, 3])), ""}) == 3
