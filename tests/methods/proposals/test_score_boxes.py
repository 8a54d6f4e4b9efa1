from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.proposals import blur, outside_blurred, score_boxes

Golden = Callable[[str], dict[str, Any]]
BOXES = torch.tensor([[0, 0, 6, 6], [2, 1, 9, 10], [0, 0, 12, 16], [3, 3, 4, 4], [5, 5, 5, 5]])
IMAGE = torch.tensor([0, 1, 1, 0, 1])
LABELS = torch.tensor([2, 0, 1, 1, 2])


def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(3))
    net(torch.zeros(1, 3, 16, 12))
    return net.eval()


def images() -> Tensor:
    return torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(1))


class TestBlur:
    def test_smoke(self) -> None:
        assert blur(images(), 2.0).shape == (2, 3, 16, 12)

    def test_golden(self, golden: Golden) -> None:
        case = golden("dips")
        image = torch.from_numpy(case["mix_image"]).permute(2, 0, 1)[None].float()
        expected = torch.from_numpy(case["mix_blur_sigma9"]).permute(2, 0, 1)[None].float()
        torch.testing.assert_close(blur(image, 9.0), expected, atol=0.5, rtol=0)

    def test_against_the_formula(self) -> None:
        image, sigma = torch.rand(1, 1, 9, 1, dtype=torch.float64), 1.0
        line = image.flatten()
        weights = torch.exp(-(torch.arange(-3, 4).double() ** 2) / 2)
        weights /= weights.sum()
        mirrored = torch.cat([line[1:4].flip(0), line, line[5:8].flip(0)])
        expected = (mirrored.unfold(0, 7, 1) * weights).sum(dim=1)
        torch.testing.assert_close(blur(image, sigma).flatten(), expected)

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 2)])
    def test_kernels_wider_than_the_image(self, size: tuple[int, int]) -> None:
        found = blur(torch.ones(1, 3, *size), 100.0)
        torch.testing.assert_close(found, torch.ones(1, 3, *size))

    @pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
    def test_refuses_other_sigmas(self, sigma: float) -> None:
        with pytest.raises(ValueError, match="positive sigma"):
            blur(images(), sigma)


class TestOutsideBlurred:
    def test_sides(self) -> None:
        sharp, soft = images(), blur(images(), 2.0)
        mixed = outside_blurred(sharp, soft, torch.tensor([[1, 2, 5, 9], [0, 0, 12, 16]]))
        assert torch.equal(mixed[0, :, 2:9, 1:5], sharp[0, :, 2:9, 1:5])
        outside = torch.ones(16, 12, dtype=torch.bool)
        outside[2:9, 1:5] = False
        assert torch.equal(mixed[0][:, outside], soft[0][:, outside])
        assert torch.equal(mixed[1], sharp[1])


class TestScoreBoxes:
    def test_smoke(self) -> None:
        scores = score_boxes(classifier(), images(), IMAGE, BOXES, LABELS)
        assert scores.shape == (5,)
        assert scores.dtype == torch.float32
        assert not scores.requires_grad

    @pytest.mark.parametrize("multi_label", [False, True])
    def test_box_by_box(self, multi_label: bool) -> None:
        net, all_images = classifier(), images()
        scores = score_boxes(net, all_images, IMAGE, BOXES, LABELS, sigma=1.5, multi_label=multi_label)
        for box, image, label, score in zip(BOXES.tolist(), IMAGE.tolist(), LABELS.tolist(), scores, strict=True):
            x0, y0, x1, y1 = box
            mixed = blur(all_images[image][None], 1.5)
            mixed[:, :, y0:y1, x0:x1] = all_images[image][None, :, y0:y1, x0:x1]
            logits = net(mixed)[0]
            expected = logits.sigmoid() if multi_label else logits.softmax(dim=0)
            torch.testing.assert_close(score, expected[label].detach())

    @given(batch_size=st.integers(1, 7))
    @settings(max_examples=7, deadline=None)
    def test_batches_change_nothing_and_bound_memory(self, batch_size: int) -> None:
        net, sizes = classifier(), []

        def watched(batch: Tensor) -> Tensor:
            sizes.append(len(batch))
            found: Tensor = net(batch)
            return found

        scores = score_boxes(watched, images(), IMAGE, BOXES, LABELS, batch_size=batch_size)
        assert max(sizes) <= batch_size
        assert sum(sizes) == len(BOXES)
        torch.testing.assert_close(scores, score_boxes(net, images(), IMAGE, BOXES, LABELS))

    def test_default_sigma(self) -> None:
        ours = score_boxes(classifier(), images(), IMAGE, BOXES, LABELS)
        assert torch.equal(ours, score_boxes(classifier(), images(), IMAGE, BOXES, LABELS, sigma=1.6))

    def test_the_whole_image_is_what_the_classifier_says(self) -> None:
        whole = torch.tensor([[0, 0, 12, 16]])
        for label in range(3):
            score = score_boxes(classifier(), images(), torch.tensor([1]), whole, torch.tensor([label]))
            torch.testing.assert_close(score[0], classifier()(images())[1].softmax(dim=0)[label].detach())

    def test_no_box(self) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        assert score_boxes(classifier(), images(), none, none.reshape(0, 4), none).shape == (0,)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"labels": LABELS[:4]}, "as many boxes"),
            ({"labels": LABELS + 1}, "3 classes, got 1 to 3"),
            ({"labels": LABELS - 1}, "got -1 to 1"),
            ({"image": IMAGE + 1}, "boxes of 2 images, got 1 to 2"),
            ({"batch_size": 0}, "batch_size of at least 1, got 0"),
            ({"sigma": 0.0}, "positive sigma"),
            ({"classifier": lambda batch: torch.zeros(len(batch), 3, 2)}, "expected logits"),
            ({"classifier": lambda batch: torch.full((len(batch), 3), float("nan"))}, "finite logits"),
        ],
    )
    def test_refusals(self, changes: dict[str, Any], message: str) -> None:
        given: dict[str, Any] = {"images": images(), "image": IMAGE, "boxes": BOXES, "labels": LABELS}
        with pytest.raises(ValueError, match=message):
            score_boxes(**{"classifier": classifier(), **given, **changes})
