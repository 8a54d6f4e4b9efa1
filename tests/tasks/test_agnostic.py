"""Maps that know no class, given to the labels of an image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.activation import min_max
from storage.index import ImageIndex
from storage.stages import FACTS, StageFolder
from tasks.agnostic import AgnosticWork, HeadMaps
from tasks.attend import MEAN
from tasks.propose import SCORE, begin_proposal
from tasks.refine import PairMaps
from tests.tasks.stores import STAGED, KnownMaps, write_attention, write_proposal

CAT, DOG, EEL = 1, 2, 3
LABELS = [["cat"], ["cat", "dog"], [], ["eel"], ["cat", "dog", "eel"]]
GRID = (4, 4)
SHARD = 2


def maps_of(index: ImageIndex, seed: int = 0) -> dict[tuple[int, int], Tensor]:
    """Random maps of all pairs."""
    random = torch.Generator().manual_seed(seed)
    keys = [(row, k) for row, ids in enumerate(index.class_ids) for k in ids]
    return {key: torch.rand(GRID, generator=random) for key in keys}


def found_by(work: AgnosticWork, row: int) -> Tensor:
    """Stored maps of an image, ``(K, h, w)``."""
    pairs = PairMaps(work.folder, row // SHARD)
    return torch.from_numpy(pairs._stored(row)).float()


@pytest.fixture
def index(index_of_labels: Callable[..., ImageIndex]) -> ImageIndex:
    return index_of_labels(LABELS)


@pytest.fixture
def make(index: ImageIndex, tmp_path: Path) -> Callable[..., AgnosticWork]:
    """Finished work of an image map each, with maps of classes."""

    def made(
        image_maps: dict[int, Tensor], classes: dict[tuple[int, int], Tensor] | None = None, **options: Any
    ) -> AgnosticWork:
        known = write_proposal(tmp_path / "classes", index, classes or maps_of(index), SHARD)
        folder = StageFolder(tmp_path / "agnostic")
        begin_proposal(folder, {"shard_images": SHARD}, index, STAGED, GRID)

        work = AgnosticWork(index, folder, known, KnownMaps(image_maps), SHARD, **options)
        for shard in work.missing():
            work(shard)
        return work

    return made


@pytest.fixture
def image_maps() -> dict[int, Tensor]:
    random = torch.Generator().manual_seed(9)
    return {row: torch.rand(GRID, generator=random) for row in range(len(LABELS))}


class TestAgnosticWork:
    def test_smoke(self, make: Callable[..., AgnosticWork], image_maps: dict[int, Tensor]) -> None:
        folder = make(image_maps).folder
        assert folder.complete
        facts = folder.table(FACTS).to_pylist()
        assert [(fact["row"], fact["class_id"]) for fact in facts] == [
            (row, k) for row, ids in enumerate([[1], [1, 2], [], [3], [1, 2, 3]]) for k in ids
        ]
        assert {fact["score"] for fact in facts} == {0.5}  # the classifier's, not the map's

    def test_a_single_label_gets_the_image_map(
        self, make: Callable[..., AgnosticWork], image_maps: dict[int, Tensor]
    ) -> None:
        work = make(image_maps)
        for row in (0, 3):
            torch.testing.assert_close(found_by(work, row)[0], min_max(image_maps[row][None])[0], rtol=0, atol=1e-3)
            (fact,) = PairMaps(work.folder, row // SHARD).by_row[row]
            assert fact["minimum"] == pytest.approx(float(image_maps[row].min()))
            assert fact["maximum"] == pytest.approx(float(image_maps[row].max()))

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=25, deadline=None)
    def test_several_labels_share_it(self, seed: int) -> None:
        told = min_max(torch.rand(3, *GRID, generator=torch.Generator().manual_seed(seed)))
        one = torch.rand(GRID, generator=torch.Generator().manual_seed(seed + 1))
        found = AgnosticWork._by_class(Known(told), one, Known(told), 0)  # type: ignore[arg-type]
        assert (found >= 0).all()
        assert (found <= one + 1e-6).all()
        # The strongest class has the image's value, the others as much less as the classifier likes them less.
        somewhere = told.amax(0) > 1e-6
        torch.testing.assert_close(found.amax(0)[somewhere], one[somewhere])
        torch.testing.assert_close(found * told.amax(0), one * told)

    def test_nothing_is_known_where_no_class_speaks(
        self, make: Callable[..., AgnosticWork], index: ImageIndex, image_maps: dict[int, Tensor]
    ) -> None:
        classes = maps_of(index)
        left = torch.zeros(GRID)
        left[:, :2] = 1
        classes[1, CAT] = classes[1, DOG] = left
        work = make(image_maps, classes)
        assert not found_by(work, 1)[:, :, 3].any()
        assert found_by(work, 1)[:, :, 0].any()

    def test_always_multiplies(
        self, make: Callable[..., AgnosticWork], index: ImageIndex, image_maps: dict[int, Tensor]
    ) -> None:
        work, classes = make(image_maps, always=True), maps_of(index)
        for row, k, place in ((0, CAT, 0), (4, EEL, 2)):
            known = image_maps[row] * min_max(classes[row, k][None])[0]
            torch.testing.assert_close(found_by(work, row)[place], min_max(known[None])[0], rtol=0, atol=2e-3)

    def test_flags(self, make: Callable[..., AgnosticWork], index: ImageIndex, image_maps: dict[int, Tensor]) -> None:
        classes = maps_of(index)
        classes[1, DOG] = torch.full(GRID, torch.nan)
        image_maps[0] = torch.full(GRID, 0.3)
        image_maps[3] = torch.full(GRID, torch.inf)
        facts = make(image_maps, classes).folder.table(FACTS).to_pylist()
        flags = {(fact["row"], fact["class_id"]): fact["flag"] for fact in facts}
        assert (flags[0, CAT], flags[3, EEL]) == ("constant", "nonfinite")
        assert flags[1, DOG] == "nonfinite"

    def test_pairs_lie_as_in_classes(self, make: Callable[..., AgnosticWork], image_maps: dict[int, Tensor]) -> None:
        work = make(image_maps)
        assert work.folder.spec(SCORE).shard_rows == work.classes.spec(SCORE).shard_rows
        both = [one.table(FACTS, ["row", "class_id", "pair"]) for one in (work.folder, work.classes)]
        assert both[0].equals(both[1])


class Known:
    """Maps of classes as :class:`tasks.refine.PairMaps` gives them, for one image."""

    always = False

    def __init__(self, told: Tensor) -> None:
        self.told = told
        self.by_row: dict[int, list[dict[str, Any]]] = {0: [{}] * len(told)}

    def maps(self, _row: int, _size: tuple[int, int]) -> Tensor:
        return self.told


class TestHeadMaps:
    def test_one_map_an_image(self, index: ImageIndex, tmp_path: Path) -> None:
        random = torch.Generator().manual_seed(0)
        stored = {row: torch.rand(3, *GRID, generator=random).half().float() for row in range(5)}
        attended = write_attention(tmp_path / "attend", index, stored, SHARD)
        for head, place in ((MEAN, 0), (1, 2)):
            found = HeadMaps(attended, head)(1, [3, 2])
            assert torch.equal(torch.stack(found), torch.stack([stored[3][place], stored[2][place]]))

    def test_refuses_a_head_that_is_not_there(self, index: ImageIndex, tmp_path: Path) -> None:
        attended = write_attention(tmp_path / "attend", index, {row: torch.rand(3, *GRID) for row in range(5)}, SHARD)
        with pytest.raises(ValueError, match="expected mean or 0 to 1, saw 2"):
            HeadMaps(attended, 2)(0, [0])
