"""What decoders learn from: lessons of maps and boxes, their batches, and stores that are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods.activation import enlarge, min_max
from storage.files import write_bytes_atomic
from storage.index import ImageIndex
from storage.stages import StageFolder
from tasks.engine import Batch
from tasks.images import ImageSource
from tasks.taught import BoxTeacher, MapTeacher, Teacher, TeacherError, check_teacher, lesson_batches
from tests.tasks.conftest import Pictures
from tests.tasks.stores import STAGED, write_attention, write_proposal, write_regions

CAT, DOG, EEL = 1, 2, 3
LABELS = [["cat"], ["cat", "dog"], [], ["eel"], ["dog", "eel"]]


def ramp(number: int) -> Tensor:
    """A map that names itself: its brightest cell is another one for every number."""
    return torch.arange(12.0).roll(number).reshape(3, 4)


def enlarged(one: Tensor, side: int) -> Tensor:
    """A map ``(h, w)`` as it is stored, on a square: ``(1, side, side)``."""
    return enlarge(one.half().float()[None], (side, side))


def generator(seed: int = 0) -> torch.Generator:
    """A source of randomness."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def index(index_of_labels: Callable[..., ImageIndex]) -> ImageIndex:
    return index_of_labels(LABELS)


@pytest.fixture
def maps(index: ImageIndex) -> dict[tuple[int, int], Tensor]:
    return {(row, k): ramp(3 * row + k) for row, ids in enumerate(index.class_ids) for k in ids}


class TestCheckTeacher:
    def test_accepts_what_belongs_to_the_run(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        check_teacher(write_proposal(tmp_path / "propose-1", index, maps, 2), index, STAGED, "train: x")

    def test_refuses_maps_of_another_data_set(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        made = write_proposal(tmp_path / "propose-1", index, maps, 2)
        with pytest.raises(TeacherError, match=rf"train: x: expected maps made for stage-b, propose-1 was .* {STAGED}"):
            check_teacher(made, index, "stage-b", "train: x")

    def test_accepts_the_same_images_staged_in_another_way(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        # With other masks, say: the maps are kept under a key that does not look at them.
        made = write_proposal(tmp_path / "stages/propose-1", index, maps, 2)
        write_bytes_atomic(tmp_path / "stages" / STAGED / "images.parquet", index.to_bytes())
        check_teacher(made, index, "stage-b", "train: x")

    def test_refuses_other_images_of_the_same_classes(
        self, index_of_labels: Callable[..., ImageIndex], index: ImageIndex, maps: Any, tmp_path: Path
    ) -> None:
        made = write_proposal(tmp_path / "stages/propose-1", index, maps, 2)
        write_bytes_atomic(tmp_path / "stages" / STAGED / "images.parquet", index.to_bytes())
        other = index_of_labels([*LABELS[1:], ["cat"]])
        with pytest.raises(TeacherError, match="its rows are those of other images"):
            check_teacher(made, other, "stage-b", "train: x")

    def test_refuses_missing_classes(
        self, index_of_labels: Callable[..., ImageIndex], index: ImageIndex, tmp_path: Path
    ) -> None:
        fewer = index_of_labels([["cat"], ["dog"]], ("cat", "dog"))
        made = write_proposal(tmp_path / "propose-1", fewer, {(0, CAT): ramp(0)}, 2)
        with pytest.raises(
            TeacherError, match=r"expected maps of the classes cat, dog, eel .*, saw cat, dog; eel are missing"
        ):
            check_teacher(made, index, STAGED, "train: x")

    def test_refuses_classes_in_another_order(
        self, index_of_labels: Callable[..., ImageIndex], index: ImageIndex, tmp_path: Path
    ) -> None:
        turned = index_of_labels(LABELS, ("eel", "dog", "cat"))
        made = write_proposal(tmp_path / "propose-1", turned, {(0, EEL): ramp(0)}, 2)
        with pytest.raises(TeacherError, match=r"saw eel, dog, cat$"):
            check_teacher(made, index, STAGED, "train: x")

    def test_refuses_missing_shards(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        made = write_proposal(tmp_path / "propose-1", index, maps, 2)
        made.log.withdraw("00001")
        with pytest.raises(TeacherError, match="train: x: expected a finished propose-1, shards are missing"):
            check_teacher(made, index, STAGED, "train: x")
        with pytest.raises(TeacherError, match="expected a finished propose-2"):
            check_teacher(StageFolder(tmp_path / "propose-2"), index, STAGED, "train: x")


class TestMapTeacher:
    def test_smoke(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        teacher = MapTeacher(write_proposal(tmp_path / "p", index, maps, 2), range(5))
        assert teacher.rows == [0, 1, 3, 4]
        assert MapTeacher(write_proposal(tmp_path / "p", index, maps, 2), [4, 2, 0]).rows == [4, 0]

    def test_lessons_are_those_of_the_row(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        # Three shards with room for four pairs each: the place of a pair is not its number.
        teacher = MapTeacher(write_proposal(tmp_path / "p", index, maps, 2), range(5))
        seen = set()
        for seed in range(20):
            for row, choice in zip(teacher.rows, teacher.draw(teacher.rows, generator(seed)), strict=True):
                assert choice["row"] == row
                lesson = teacher.lesson(choice, 12)
                assert torch.equal(lesson.map, min_max(enlarged(maps[row, choice["class_id"]] / 11, 12)))
                assert (float(lesson.map.min()), float(lesson.map.max())) == (0, 1)
                assert (lesson.box.tolist(), lesson.label) == ([0, 0, 12, 12], choice["class_id"] - 1)
                seen.add((row, choice["class_id"]))
        assert seen == set(maps)

    def test_broken_maps_teach_nothing(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        maps[1, DOG] = torch.full((3, 4), torch.nan)
        assert MapTeacher(write_proposal(tmp_path / "p", index, maps, 2), range(5)).rows == [0, 3, 4]

    def test_every_map_of_an_image(self, index: ImageIndex, maps: Any, tmp_path: Path) -> None:
        teacher = MapTeacher(write_proposal(tmp_path / "p", index, maps, 2), range(5))
        for row in teacher.rows:
            known = [min_max(enlarged(maps[row, k] / 11, 12)) for k in index.class_ids[row]]
            assert torch.equal(teacher.every(row, 12), torch.cat(known))

    def test_constant_maps_are_zero(self, index: ImageIndex, tmp_path: Path) -> None:
        made = write_proposal(tmp_path / "p", index, {(0, CAT): torch.full((3, 4), 0.7)}, 2)
        teacher = MapTeacher(made, range(5))
        (choice,) = teacher.draw([0], generator())
        assert not teacher.lesson(choice, 8).map.any()


def box(row: int, class_id: int, rank: int, corners: tuple[int, int, int, int], head: int = -1) -> dict[str, Any]:
    """A stored box on a square of ten."""
    named = {"row": row, "class_id": class_id, "head": head, "side": 10, "rank": rank}
    return {**named, **dict(zip(("x0", "y0", "x1", "y1"), corners))}


class TestBoxTeacher:
    @pytest.fixture
    def attended(self, index: ImageIndex, tmp_path: Path) -> StageFolder:
        maps = {row: torch.stack([ramp(4 * row + head) / 11 for head in range(3)]) for row in range(5)}
        return write_attention(tmp_path / "attend", index, maps, 2)

    def test_draws_among_the_best(self, index: ImageIndex, attended: StageFolder, tmp_path: Path) -> None:
        boxes = [box(0, CAT, rank, (0, 0, 5 + rank, 5)) for rank in range(4)] + [box(3, EEL, 0, (1, 2, 3, 4))]
        teacher = BoxTeacher(write_regions(tmp_path / "r", index, boxes, 2), attended, range(5), 2)
        assert teacher.rows == [0, 3]
        drawn = [teacher.draw([0, 3], generator(seed)) for seed in range(30)]
        assert {first["rank"] for first, _ in drawn} == {0, 1}
        assert {second["row"] for _, second in drawn} == {3}

    def test_lesson_has_the_attention_of_its_head(
        self, index: ImageIndex, attended: StageFolder, tmp_path: Path
    ) -> None:
        boxes = [box(row, k, 0, (0, 0, 5, 5), head) for row, k, head in ((0, CAT, -1), (3, EEL, 1), (4, DOG, 0))]
        teacher = BoxTeacher(write_regions(tmp_path / "r", index, boxes, 2), attended, range(5), 2)
        for choice in teacher.draw(teacher.rows, generator()):
            lesson = teacher.lesson(choice, 12)
            known = enlarged(ramp(4 * choice["row"] + choice["head"] + 1) / 11, 12)
            assert torch.equal(lesson.map, known / known.max())
            assert lesson.label == choice["class_id"] - 1

    def test_boxes_grow_outwards(self, index: ImageIndex, attended: StageFolder, tmp_path: Path) -> None:
        made = write_regions(tmp_path / "r", index, [box(0, CAT, 0, (1, 2, 4, 10))], 2)
        teacher = BoxTeacher(made, attended, range(5), 2)
        (choice,) = teacher.draw([0], generator())
        assert teacher.lesson(choice, 13).box.tolist() == [1, 2, 6, 13]
        assert teacher.lesson(choice, 20).box.tolist() == [2, 4, 8, 20]
        assert teacher.lesson(choice, 10).box.tolist() == [1, 2, 4, 10]


class TestLessonBatches:
    SIDE = 16

    @pytest.fixture
    def lessons(self, pictures: Pictures, tmp_path: Path) -> tuple[ImageSource, MapTeacher]:
        maps = {(row, pictures.index.class_ids[row][0]): ramp(row) for row in range(7)}
        made = write_proposal(tmp_path / "p", pictures.index, maps, 3)
        return ImageSource(pictures.root, pictures.index, 10**6), MapTeacher(made, range(7))

    def epoch(self, lessons: tuple[ImageSource, Teacher], epoch: int, **options: Any) -> list[Batch]:
        source, teacher = lessons
        settings = {"batch_size": 3, "resize": self.SIDE, "size": self.SIDE, "flip": True, "seed": 0, **options}
        batches, steps = lesson_batches(source, teacher, **settings)(epoch)
        found = list(batches)
        assert len(found) == steps
        return found

    def test_smoke(self, lessons: tuple[ImageSource, MapTeacher], pictures: Pictures) -> None:
        for batch in self.epoch(lessons, 0, size=12):
            count = len(batch.rows)
            tensors = batch.tensors
            assert (tensors["pixels"].shape, tensors["pixels"].dtype) == ((count, 3, 12, 12), torch.uint8)
            assert (tensors["maps"].shape, tensors["maps"].dtype) == ((count, 12, 12), torch.float32)
            assert (tensors["boxes"].shape, tensors["boxes"].dtype) == ((count, 4), torch.int64)
            assert tensors["labels"].tolist() == [pictures.index.class_ids[row][0] - 1 for row in batch.rows]

    def test_a_last_batch_of_one_is_left_out(self, lessons: tuple[ImageSource, MapTeacher]) -> None:
        sizes = {size: [len(one.rows) for one in self.epoch(lessons, 0, batch_size=size)] for size in (2, 3, 4, 7, 9)}
        assert sizes == {2: [2, 2, 2], 3: [3, 3], 4: [4, 3], 7: [7], 9: [7]}

    def test_every_image_once_in_an_epoch(self, lessons: tuple[ImageSource, MapTeacher]) -> None:
        rows = [row for batch in self.epoch(lessons, 2, batch_size=4) for row in batch.rows]
        assert sorted(rows) == list(range(7))

    def test_an_epoch_is_drawn_anew_and_can_be_repeated(self, lessons: tuple[ImageSource, MapTeacher]) -> None:
        first, again, later = (self.epoch(lessons, epoch, size=12) for epoch in (1, 1, 2))
        for one, other in zip(first, again, strict=True):
            assert one.rows == other.rows
            assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        assert [one.rows for one in first] != [one.rows for one in later]
        assert [one.rows for one in first] != [one.rows for one in self.epoch(lessons, 1, seed=1, size=12)]

    def test_without_flip_or_crop_nothing_turns(self, lessons: tuple[ImageSource, MapTeacher]) -> None:
        source, teacher = lessons
        for batch in self.epoch(lessons, 0, flip=False):
            for place, row in enumerate(batch.rows):
                assert torch.equal(batch.tensors["pixels"][place], source.square(row, self.SIDE))
                (choice,) = teacher.draw([row], generator())
                assert torch.equal(batch.tensors["maps"][place], teacher.lesson(choice, self.SIDE).map[0])

    def test_image_and_map_are_cropped_at_one_place(self, lessons: tuple[ImageSource, MapTeacher]) -> None:
        source, teacher = lessons
        size = 12
        for batch in self.epoch(lessons, 3, size=size):
            for place, row in enumerate(batch.rows):
                image = source.square(row, self.SIDE).float()
                (choice,) = teacher.draw([row], generator())
                both = torch.cat([image, teacher.lesson(choice, self.SIDE).map])
                found = torch.cat([batch.tensors["pixels"][place].float(), batch.tensors["maps"][place][None]])
                views = [
                    view
                    for whole in (both, both.flip(2))
                    for rows in whole.unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4)
                    for view in rows
                ]
                assert any(torch.equal(view, found) for view in views)


def test_stores_are_not_shared(index: ImageIndex, maps: Any, tmp_path: Path) -> None:
    """A copy elsewhere teaches the same: nothing depends on where a store lies."""
    made = write_proposal(tmp_path / "p", index, maps, 2)
    copy = StageFolder(Path(shutil.copytree(made.folder, tmp_path / "q")))
    choice = {"pair": 0, "class_id": CAT}
    first, second = (MapTeacher(one, range(5)).lesson(choice, 8).map for one in (made, copy))
    assert torch.equal(first, second)
