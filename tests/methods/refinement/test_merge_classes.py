import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from torch import Tensor

from methods.refinement.merge_classes import merge_classes
from methods.refinement.otsu import otsu_masks, otsu_thresholds


def _random(classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(classes, 6, 7, generator=generator, dtype=torch.float64)
    thresholds = torch.randint(0, 255, (classes,), generator=generator)
    return maps, thresholds, torch.randperm(254, generator=generator)[:classes] + 1


def _by_hand(maps: Tensor, thresholds: Tensor, classes: Tensor, y: int, x: int) -> tuple[int, int]:
    """The definition, one pixel at a time in Python floats."""
    rows = list(zip(maps[:, y, x].tolist(), thresholds.tolist(), classes.tolist(), strict=True))
    above = [(s, (t + 1) / 255, c) for s, t, c in rows if t >= 0 and int(255 * s) > t]
    if above:
        s, t, label = max(above, key=lambda row: row[0])
        margin = (s - t) / (1 - t) if t < 1 else 0.0
        others = [row[0] for row in above if row[2] != label]
        return label, round(255 * min([margin, *(s - other for other in others)]))
    if any(t < 0 for _, t, _ in rows):
        return 255, 0
    return 0, round(255 * min((((t + 1) / 255 - s) * 255 / (t + 1) for s, t, _ in rows), default=1))


class TestMergeClasses:
    def test_smoke(self) -> None:
        labels, confidence = merge_classes(torch.rand(2, 4, 5), torch.tensor([90, 120]), torch.tensor([3, 9]))
        assert labels.shape == confidence.shape == (4, 5)
        assert labels.dtype == confidence.dtype == torch.uint8
        assert set(labels.flatten().tolist()) <= {0, 3, 9}

    @limits(max_examples=25)
    @given(st.integers(0, 4), st.integers(0, 2**31), st.booleans())
    def test_matches_the_definition(self, count: int, seed: int, constant: bool) -> None:
        maps, thresholds, classes = _random(count, seed)
        if constant and count:
            thresholds[seed % count], maps[seed % count] = -1, 0.7
        labels, confidence = merge_classes(maps, thresholds, classes)
        for y in range(6):
            for x in range(7):
                label, sure = _by_hand(maps, thresholds, classes, y, x)
                assert labels[y, x] == label
                assert abs(int(confidence[y, x]) - sure) <= 1

    @limits(max_examples=20)
    @given(st.integers(0, 2**31))
    def test_the_order_of_classes_does_not_matter(self, seed: int) -> None:
        maps, thresholds, classes = _random(3, seed)
        order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
        one = merge_classes(maps, thresholds, classes)
        other = merge_classes(maps[order], thresholds[order], classes[order])
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])

    def test_one_class_is_its_otsu_mask(self) -> None:
        maps = torch.rand(1, 9, 9)
        labels, _ = merge_classes(maps, otsu_thresholds(maps), torch.tensor([5]))
        assert torch.equal(labels == 5, otsu_masks(maps)[0])
        assert torch.equal(labels == 0, ~otsu_masks(maps)[0])

    def test_equal_scores_take_the_first_class(self) -> None:
        labels, confidence = merge_classes(torch.full((2, 1, 1), 0.9), torch.tensor([10, 10]), torch.tensor([8, 2]))
        assert (labels.item(), confidence.item()) == (8, 0)

    def test_no_class_is_certain_background(self) -> None:
        empty = torch.zeros(0, dtype=torch.int64)
        labels, confidence = merge_classes(torch.zeros(0, 2, 3), empty, empty)
        assert not labels.any()
        assert (confidence == 255).all()

    def test_a_class_that_cannot_be_located_leaves_no_background(self) -> None:
        maps = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])
        labels, confidence = merge_classes(maps, torch.tensor([100, -1]), torch.tensor([1, 2]))
        assert labels.tolist() == [[1, 255]]
        assert confidence.tolist() == [[255, 0]]

    def test_nothing_located_is_unknown_everywhere(self) -> None:
        labels, confidence = merge_classes(torch.ones(2, 2, 2), torch.tensor([-1, -1]), torch.tensor([1, 2]))
        assert (labels == 255).all()
        assert not confidence.any()

    @pytest.mark.parametrize("threshold", [254, 255])
    def test_thresholds_at_the_top(self, threshold: int) -> None:
        labels, confidence = merge_classes(torch.tensor([[[1.0, 0.0]]]), torch.tensor([threshold]), torch.tensor([1]))
        assert labels.tolist() == [[int(threshold < 255), 0]]
        assert confidence[0, 1] == 255

    @pytest.mark.parametrize("threshold", [100, -1])
    def test_refuses_nan(self, threshold: int) -> None:
        with pytest.raises(ValueError, match="not finite"):
            merge_classes(torch.full((1, 2, 2), float("nan")), torch.tensor([threshold]), torch.tensor([1]))

    @pytest.mark.parametrize("ids", [[0, 1], [1, 255], [4, 4]])
    def test_refuses_ids(self, ids: list[int]) -> None:
        with pytest.raises(ValueError, match="different class ids 1 to 254"):
            merge_classes(torch.rand(2, 2, 2), torch.tensor([9, 9]), torch.tensor(ids))

    def test_refuses_thresholds_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r"thresholds -1 to 255, got \[256\]"):
            merge_classes(torch.rand(1, 2, 2), torch.tensor([256]), torch.tensor([1]))

    def test_refuses_shapes_that_do_not_agree(self) -> None:
        with pytest.raises(ValueError, match=r"got shapes \(2, 2, 2\), \(1,\) and \(2,\)"):
            merge_classes(torch.rand(2, 2, 2), torch.tensor([9]), torch.tensor([1, 2]))
