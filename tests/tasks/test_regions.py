"""Boxes around attention, scored by a classifier."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from configs import RunConfig
from configs.decoders import Regions
from methods.networks import ClassifierNetwork, build_classifier
from methods.proposals import blur, outside_blurred
from storage.index import ImageIndex
from storage.stages import FACTS, StageFolder
from tasks.images import ImageSource, to_input
from tasks.regions import HEADS, RegionWork, enlarged, ranked
from tests.tasks.conftest import Pictures
from tests.tasks.stores import STAGED, write_attention

CPU = torch.device("cpu")
SIDE, SHARD, GRID = 32, 3, 4
LABELS = [["cat"], ["dog"], ["cat", "dog"], [], ["dog"], ["cat", "dog"], ["cat"]]


def spot(*cells: tuple[int, int]) -> Tensor:
    """Attention on a few cells of the grid."""
    found = torch.full((GRID, GRID), 0.01)
    for row, column in cells:
        found[row, column] = 1
    return found


@pytest.fixture(scope="module")
def network() -> ClassifierNetwork:
    torch.manual_seed(1)
    made = build_classifier("small", 2)
    made.model.eval().requires_grad_(False)
    return made


@pytest.fixture
def index(index_of_labels: Callable[..., ImageIndex], pictures: Pictures) -> ImageIndex:
    hashes = [str(one) for one in pictures.index.table.column("sha256").to_pylist()]
    return index_of_labels(LABELS, ("cat", "dog"), hashes=hashes)


@pytest.fixture
def attention() -> dict[int, Tensor]:
    """The mean and six heads: a corner, the other corner, two parts, nothing, … moved along by the row."""
    heads = [spot((0, 0)), spot((3, 3)), spot((0, 3), (3, 0)), torch.ones(GRID, GRID), spot((1, 1)), spot((2, 2))]
    return {row: torch.stack([spot((1, 2), (1, 1)), *heads]).roll(row, dims=2) for row in range(7)}


@pytest.fixture
def make(
    index: ImageIndex, pictures: Pictures, network: ClassifierNetwork, attention: dict[int, Tensor], tmp_path: Path
) -> Callable[..., RegionWork]:
    """Finished work."""
    classifier = {"input_size": SIDE, "batch_size": 2}
    config = RunConfig.model_validate(
        {"dataset": {"format": "voc", "root": "."}, "classifier": classifier, "runtime": {"shard_images": SHARD}}
    )

    def made(*, multi_label: bool = False, **regions: Any) -> RegionWork:
        attended = write_attention(tmp_path / "attend", index, attention, SHARD)
        folder = StageFolder(tmp_path / "regions")
        folder.begin({}, shards=3, classes=index.classes, index_stage=STAGED)
        source = ImageSource(pictures.root, index, 10**6)
        asked = Regions(**{"min_size": 0.02, **regions})
        work = RegionWork(config, asked, index, network, source, CPU, attended, folder, multi_label=multi_label)
        for shard in work.missing():
            work(shard)
        return work

    return made


def boxes(work: RegionWork) -> list[dict[str, Any]]:
    """All boxes."""
    return [dict(one) for one in work.folder.table(FACTS).to_pylist()]


class TestRegionWork:
    def test_smoke(self, make: Callable[..., RegionWork]) -> None:
        work = make()
        found = boxes(work)
        assert work.folder.complete
        assert {(one["row"], one["class_id"]) for one in found} == {
            (row, ["cat", "dog"].index(name) + 1) for row, names in enumerate(LABELS) for name in names
        }
        for one in found:
            assert 0 <= one["x0"] < one["x1"] <= SIDE
            assert 0 <= one["y0"] < one["y1"] <= SIDE
            assert one["side"] == SIDE
            assert one["area"] == pytest.approx((one["x1"] - one["x0"]) * (one["y1"] - one["y0"]) / SIDE**2)
            assert not one["fallback"]

    def test_heads_are_the_mean_and_the_first_four(self, make: Callable[..., RegionWork]) -> None:
        found = boxes(make())
        # Head 3 is constant: no box. Heads 4 and 5 are left out, as in the paper's maps.
        assert {one["head"] for one in found} == {-1, 0, 1, 2}
        assert HEADS == 4

    def test_ranks_follow_scores(self, make: Callable[..., RegionWork]) -> None:
        groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for one in boxes(make()):
            groups.setdefault((one["row"], one["class_id"]), []).append(one)
        for group in groups.values():
            assert [one["rank"] for one in group] == list(range(len(group)))
            assert [one["score"] for one in group] == sorted((one["score"] for one in group), reverse=True)

    def test_labels_of_an_image_share_its_boxes(self, make: Callable[..., RegionWork]) -> None:
        found = boxes(make())
        corners = [
            {
                (one["head"], one["x0"], one["y0"], one["x1"], one["y1"])
                for one in found
                if one["row"] == 2 and one["class_id"] == k
            }
            for k in (1, 2)
        ]
        assert corners[0] == corners[1]
        assert corners[0]

    @pytest.mark.parametrize("multi_label", [False, True])
    def test_scores_are_those_of_the_image_blurred_outside(
        self, make: Callable[..., RegionWork], multi_label: bool
    ) -> None:
        work = make(multi_label=multi_label, blur=0.2)
        for one in boxes(work)[::5]:
            image = to_input(work.source.square(one["row"], SIDE)[None], work.classifier.normalise, CPU)
            box = torch.tensor([[one[name] for name in ("x0", "y0", "x1", "y1")]])
            logits = work.network.model(outside_blurred(image, blur(image, 0.2 * SIDE), box))
            chances = logits.sigmoid() if multi_label else logits.softmax(dim=1)
            assert one["score"] == pytest.approx(float(chances[0, one["class_id"] - 1]), abs=1e-5)

    def test_the_largest_where_none_is_large_enough(self, make: Callable[..., RegionWork]) -> None:
        found = boxes(make(min_size=1))
        assert all(one["fallback"] for one in found)
        assert len(found) == sum(map(len, LABELS))

    def test_images_without_attention_have_no_box(
        self, make: Callable[..., RegionWork], attention: dict[int, Tensor]
    ) -> None:
        # Two whole shards of nothing: their tables are empty.
        for row in (0, 1, 2, 3, 4, 5):
            attention[row] = torch.ones(7, GRID, GRID)
        work = make()
        assert {one["row"] for one in boxes(work)} == {6}
        assert work.folder.complete


class TestEnlarged:
    def test_each_map_has_a_maximum_of_one(self) -> None:
        found = enlarged(torch.rand(2, 3, 4, 4) * 0.1, 20)
        assert found.shape == (2, 3, 20, 20)
        torch.testing.assert_close(found.amax((2, 3)), torch.ones(2, 3))

    def test_nothing_stays_nothing(self) -> None:
        assert not enlarged(torch.zeros(1, 1, 4, 4), 8).any()


class TestRanked:
    @given(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(1, 2), st.sampled_from([0.1, 0.5]), st.sampled_from([0.2, 0.3])),
            max_size=12,
        )
    )
    def test_order_does_not_depend_on_the_order_given(self, drawn: list[tuple[int, int, float, float]]) -> None:
        facts = [
            {"row": row, "class_id": k, "score": score, "area": area, "head": head}
            for head, (row, k, score, area) in enumerate(drawn)
        ]
        first, second = ranked([dict(one) for one in facts]), ranked([dict(one) for one in reversed(facts)])
        assert first == second
        for one, after in pairwise(first):
            same = (one["row"], one["class_id"]) == (after["row"], after["class_id"])
            assert after["rank"] == (one["rank"] + 1 if same else 0)
            assert not same or (one["score"], one["area"]) >= (after["score"], after["area"])
