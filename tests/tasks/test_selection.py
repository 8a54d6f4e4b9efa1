"""The number that chooses a decoder's epoch."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from configs.normalise import Normalise
from methods.networks import UNet
from storage.boxes import BoxStore
from storage.labels import LabelStore
from tasks.images import ImageSource
from tasks.selection import SelectionError, Validator
from tests.tasks.conftest import Pictures

HEIGHT, WIDTH, SIDE = 10, 12, 32
Mask = npt.NDArray[np.uint8]


class Truths:
    """Masks by row: the left third of the image is some class; rows not listed know nothing."""

    def __init__(self, rows: list[int], columns: int = 4) -> None:
        self.rows, self.columns = rows, columns

    def mask(self, row: int) -> Mask:
        found = np.full((HEIGHT, WIDTH), 255 if row not in self.rows else 0, np.uint8)
        if row in self.rows:
            found[:, : self.columns] = 1 + row % 2
        return found

    def boxes(self, row: int) -> npt.NDArray[np.int64]:
        return np.array([[0, 0, self.columns, HEIGHT]] if row in self.rows else np.zeros((0, 4)), np.int64)


class Network:
    """Says of every image that so much of its left side is foreground."""

    def __init__(self, share: float, inside: float = 0.9, outside: float = 0.1) -> None:
        self.share, self.inside, self.outside = share, inside, outside
        self.seen = 0

    def foreground(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        found = torch.full((len(images), SIDE, SIDE), self.outside)
        found[:, :, : round(SIDE * self.share)] = self.inside
        return found


@pytest.fixture
def make(pictures: Pictures) -> Callable[..., Validator]:
    """A validator of a network on rows 1 to 5."""

    def made(
        select: str, network: Network, truth: Truths | None = None, boxes: Truths | None = None, **options: Any
    ) -> Validator:
        source = ImageSource(pictures.root, pictures.index, 10**6)
        settings = {"select": select, "split": "val", "where": "train: x", **options}
        labels, stored = cast("LabelStore | None", truth), cast("BoxStore | None", boxes)
        rows, device = [1, 2, 3, 4, 5], torch.device("cpu")
        return Validator(cast("UNet", network), source, Normalise(), SIDE, device, 2, rows, labels, stored, **settings)

    return made


SELECTS = ["px_ap", "fg_iou_pooled", "max_box_acc"]


class TestValidator:
    @pytest.mark.parametrize("select", SELECTS)
    def test_the_number_asked_for_and_no_other(self, make: Callable[..., Validator], select: str) -> None:
        found = make(select, Network(1 / 3), Truths([1, 3]), Truths([1, 3]))()
        assert list(found) == [select]
        assert found[select] == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize("select", SELECTS)
    def test_better_maps_larger_numbers(self, make: Callable[..., Validator], select: str) -> None:
        values = [make(select, Network(share), Truths([1, 3]), Truths([1, 3]))()[select] for share in (1 / 3, 0.8)]
        assert values[0] > values[1]

    def test_iou_by_hand(self, make: Callable[..., Validator]) -> None:
        # A half is found, of which the true quarter is a half.
        value = make("fg_iou_pooled", Network(0.5), Truths([1, 2, 3], columns=3))()["fg_iou_pooled"]
        assert value == pytest.approx(0.5, abs=0.02)

    @pytest.mark.parametrize("select", SELECTS)
    def test_rows_without_truth_are_passed_over(self, make: Callable[..., Validator], select: str) -> None:
        network = Network(1 / 3)
        validator = make(select, network, Truths([1, 4]), Truths([1, 4]))
        validator()
        assert validator.rows == [1, 4]
        assert network.seen == 2

    def test_can_be_asked_again(self, make: Callable[..., Validator]) -> None:
        validator = make("px_ap", Network(0.6), Truths([1, 3]))
        assert validator() == validator()

    def test_ignored_pixels_do_not_count(self, make: Callable[..., Validator]) -> None:
        class Doubtful(Truths):
            def mask(self, row: int) -> Mask:
                found = super().mask(row)
                found[:, 4:] = 255
                return found

        assert make("fg_iou_pooled", Network(0.8), Doubtful([1]))()["fg_iou_pooled"] == pytest.approx(1)

    def test_nothing_found_where_nothing_is(self, make: Callable[..., Validator]) -> None:
        # Neither truth nor maps have foreground: there is no such number, and no division by zero either.
        value = make("fg_iou_pooled", Network(0.5, 0.0, 0.0), Truths([1], columns=0))()["fg_iou_pooled"]
        assert np.isnan(value)


class TestRefusals:
    @pytest.mark.parametrize(
        ("select", "kind"), [("px_ap", "masks"), ("fg_iou_pooled", "masks"), ("max_box_acc", "boxes")]
    )
    def test_refuses_a_split_without_ground_truth(self, make: Callable[..., Validator], select: str, kind: str) -> None:
        said = rf"train: x: select: {select}: expected ground truth {kind} in the split 'val', saw none; name another"
        for truth in (None, Truths([0, 6])):
            with pytest.raises(SelectionError, match=said):
                make(select, Network(0.5), truth, truth)

    def test_refuses_masks_in_place_of_boxes(self, make: Callable[..., Validator]) -> None:
        with pytest.raises(SelectionError, match="ground truth boxes"):
            make("max_box_acc", Network(0.5), Truths([1]))
        with pytest.raises(SelectionError, match="ground truth masks"):
            make("px_ap", Network(0.5), None, Truths([1]))
