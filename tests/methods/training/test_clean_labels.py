import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.refinement import pamr
from methods.training.clean_labels import clean_labels


def noisy(seed: int, classes: int = 2, shape: tuple[int, ...] = (1, 2, 8, 9)) -> tuple[Tensor, Tensor]:
    """An image of noise and label maps of noise."""
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(shape[0], 3, *shape[2:], generator=random)
    return image, torch.randint(classes + 1, shape, generator=random, dtype=torch.uint8)


class TestCleanLabels:
    def test_smoke(self) -> None:
        image, labels = noisy(0)
        found = clean_labels(image, labels, dilations=[1, 2])
        assert (found.shape, found.dtype) == (labels.shape, torch.uint8)

    def test_labels_follow_colours(self) -> None:
        image = torch.zeros(1, 3, 12, 12)
        image[..., 6:] = 1
        truth = (image[:, :1] > 0.5).to(torch.uint8)
        labels = truth.clone()
        labels[0, 0, 3, 2], labels[0, 0, 8, 9] = 1, 0
        assert torch.equal(clean_labels(image, labels, dilations=[1]), truth)

    def test_is_the_strongest_of_refined_maps(self) -> None:
        image, labels = noisy(1, shape=(2, 1, 8, 9))
        maps = torch.cat([(labels == k).float() for k in range(3)], dim=1)
        # What is probable instead of sure has the same order.
        refined = pamr(image, 0.7 * maps + 0.15 * (1 - maps), iterations=3, dilations=[1])
        expected = refined.argmax(dim=1, keepdim=True).to(torch.uint8)
        assert torch.equal(clean_labels(image, labels, iterations=3, dilations=[1]), expected)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_each_map_and_image_by_itself(self, seed: int) -> None:
        image, labels = noisy(seed, shape=(2, 2, 6, 7))
        found = clean_labels(image, labels, dilations=[1])
        for one in range(2):
            for place in range(2):
                alone = clean_labels(image[one : one + 1], labels[one : one + 1, place : place + 1], dilations=[1])
                assert torch.equal(found[one, place], alone[0, 0])

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_no_label_appears(self, seed: int) -> None:
        image, labels = noisy(seed, classes=1, shape=(1, 1, 6, 7))
        found = clean_labels(image, 5 * labels, dilations=[1])
        assert set(found.flatten().tolist()) <= {0, 5}

    @pytest.mark.parametrize("value", [0, 3, 254])
    def test_one_label_stays(self, value: int) -> None:
        labels = torch.full((1, 1, 3, 4), value, dtype=torch.uint8)
        assert torch.equal(clean_labels(noisy(0, shape=(1, 1, 3, 4))[0], labels, dilations=[1]), labels)

    @pytest.mark.parametrize("shape", [(0, 2, 4, 5), (1, 0, 4, 5)])
    def test_nothing(self, shape: tuple[int, ...]) -> None:
        assert clean_labels(torch.zeros(shape[0], 3, 4, 5), torch.zeros(shape, dtype=torch.uint8)).shape == shape

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"labels \[B, N, H, W\] of 1 images"):
            clean_labels(torch.zeros(1, 3, 4, 5), torch.zeros(1, 4, 5, dtype=torch.uint8))
        with pytest.raises(ValueError, match=r"5, 5"):
            clean_labels(torch.zeros(1, 3, 4, 5), torch.zeros(1, 1, 5, 5, dtype=torch.uint8))

    def test_refuses_other_types(self) -> None:
        with pytest.raises(TypeError, match="int64"):
            clean_labels(torch.zeros(1, 3, 4, 5), torch.zeros(1, 1, 4, 5, dtype=torch.int64))
