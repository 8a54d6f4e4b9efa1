import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tasks.augment import Views, augment, draw_views


def numbered(count: int, height: int, width: int) -> Tensor:
    """Images whose every value is another one, so that a crop tells where it was cut."""
    return torch.arange(count * 3 * height * width).reshape(count, 3, height, width)


def crops(image: Tensor, size: int) -> dict[str, list[Tensor]]:
    """Every crop of an image, by how it is flipped."""
    _, height, width = image.shape
    plain = [
        image[:, top : top + size, left : left + size]
        for top in range(height - size + 1)
        for left in range(width - size + 1)
    ]
    return {
        "plain": plain,
        "mirrored": [crop.flip(2) for crop in plain],
        "upside": [crop.flip(1) for crop in plain],
        "both": [crop.flip(1, 2) for crop in plain],
    }


def kind_of(found: Tensor, image: Tensor) -> str:
    size = found.shape[-1]
    return next(kind for kind, known in crops(image, size).items() if any(torch.equal(found, crop) for crop in known))


def boxes_within(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes of at least one pixel at random places."""
    corners = [
        [[int(torch.randint(side, (), generator=generator)) for _ in range(2)] for side in (width, height)]
        for _ in range(count)
    ]
    return torch.tensor([[min(x), min(y), max(x) + 1, max(y) + 1] for x, y in corners])


def filled(boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks ``(B, H, W)`` of boxes; nothing for an empty one."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    x0, y0, x1, y1 = (one[:, None, None] for one in boxes.unbind(1))
    return (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)


class TestAugment:
    def test_smoke(self) -> None:
        images = torch.randint(256, (5, 3, 20, 24), dtype=torch.uint8)
        found = augment(images, 16, torch.Generator().manual_seed(0), vertical=True)
        assert found.shape == (5, 3, 16, 16)
        assert found.dtype == torch.uint8

    @given(st.integers(1, 3), st.integers(0, 3), st.integers(0, 2), st.booleans(), st.integers(0, 2**31))
    @settings(max_examples=25, deadline=None)
    def test_every_result_is_a_crop_of_its_own_image(
        self, size: int, more_rows: int, more_columns: int, vertical: bool, seed: int
    ) -> None:
        images = numbered(4, size + more_rows, size + more_columns)
        for found, image in zip(augment(images, size, torch.Generator().manual_seed(seed), vertical=vertical), images):
            kind_of(found, image)

    def test_same_generator_same_crops(self) -> None:
        images = numbered(6, 9, 8)
        first, again, other = (
            augment(images, 5, torch.Generator().manual_seed(seed), vertical=True) for seed in (3, 3, 4)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_draws_nothing_from_the_global_generator(self) -> None:
        before = torch.get_rng_state()
        augment(numbered(2, 9, 8), 5, torch.Generator().manual_seed(3), vertical=True)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize(
        ("vertical", "kinds"), [(False, {"plain", "mirrored"}), (True, {"plain", "mirrored", "upside", "both"})]
    )
    def test_all_flips_occur(self, vertical: bool, kinds: set[str]) -> None:
        images = numbered(64, 6, 6)
        found = augment(images, 4, torch.Generator().manual_seed(1), vertical=vertical)
        assert {kind_of(one, image) for one, image in zip(found, images)} == kinds

    def test_every_place_occurs(self) -> None:
        images = torch.arange(9.0).reshape(1, 1, 3, 3).expand(200, 3, 3, 3)
        found = augment(images, 1, torch.Generator().manual_seed(1), vertical=False)
        assert set(found[:, 0, 0, 0].tolist()) == set(range(9))

    def test_flips_do_not_depend_on_vertical(self) -> None:
        # The draw is made either way, so that the option does not shift what comes after it.
        generators = [torch.Generator().manual_seed(1) for _ in range(2)]
        for generator, vertical in zip(generators, (False, True)):
            augment(numbered(4, 6, 6), 4, generator, vertical=vertical)
        assert torch.equal(generators[0].get_state(), generators[1].get_state())


class TestViews:
    @given(st.integers(1, 12), st.integers(0, 5), st.integers(0, 5), st.booleans(), st.integers(0, 2**31))
    @settings(max_examples=40, deadline=None)
    def test_image_map_and_box_turn_alike(
        self, size: int, more_rows: int, more_columns: int, vertical: bool, seed: int
    ) -> None:
        count, height, width = 5, size + more_rows, size + more_columns
        random = torch.Generator().manual_seed(seed)
        boxes = boxes_within(count, height, width, random)
        masks = filled(boxes, height, width)
        views = draw_views(count, (height, width), size, random, vertical=vertical)
        images = numbered(count, height, width)
        marked = torch.where(masks[:, None], images, -1)
        crops, turned = views.crop(images), views.crop(masks[:, None])[:, 0]
        assert torch.equal(views.crop(marked), torch.where(turned[:, None], crops, -1))
        assert torch.equal(filled(views.boxes(boxes), size, size), turned)

    def test_a_box_outside_of_its_crop_is_empty(self) -> None:
        views = Views(torch.tensor([0]), torch.tensor([0]), torch.tensor([True]), torch.tensor([True]), 4)
        ((x0, y0, x1, y1),) = views.boxes(torch.tensor([[5, 1, 8, 3]])).tolist()
        assert x1 <= x0
        assert (y0, y1) == (1, 3)

    @pytest.mark.parametrize(
        ("mirrored", "upside", "box"),
        [
            (False, False, [0, 1, 2, 4]),
            (True, False, [2, 1, 4, 4]),
            (False, True, [0, 0, 2, 3]),
            (True, True, [2, 0, 4, 3]),
        ],
    )
    def test_hand_computed(self, mirrored: bool, upside: bool, box: list[int]) -> None:
        views = Views(torch.tensor([1]), torch.tensor([2]), torch.tensor([mirrored]), torch.tensor([upside]), 4)
        assert views.boxes(torch.tensor([[1, 2, 4, 9]])).tolist() == [box]

    def test_without_flip_nothing_is_mirrored(self) -> None:
        generator = torch.Generator().manual_seed(0)
        views = draw_views(64, (6, 6), 4, generator, flip=False, vertical=False)
        assert not views.mirrored.any()
        assert not views.upside.any()
        assert len(set(views.top.tolist())) == 3

    def test_flip_does_not_change_the_places(self) -> None:
        plain, flipped = (
            draw_views(9, (9, 9), 4, torch.Generator().manual_seed(2), flip=flip, vertical=False)
            for flip in (False, True)
        )
        assert torch.equal(plain.top, flipped.top)
        assert torch.equal(plain.left, flipped.left)
