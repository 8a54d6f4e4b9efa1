from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.training.edge_predict_mix import Mixed, draw_partners, mix

Golden = Callable[[str], dict[str, Any]]
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(seed: int = 0, count: int = 3, classes: int = 3) -> Batch:
    """Images that know their classes: more than what is labelled."""
    generator = seeded(seed)
    known = (torch.rand(count, classes, generator=generator) > 0.5).float()
    labels = torch.randint(classes + 2, (count, 2, 3), generator=generator).to(torch.uint8)
    labels[labels == classes + 1] = 255
    absent = torch.nn.functional.pad(known == 0, (1, 255 - classes))[:, :256]
    labels[absent.gather(1, labels.flatten(1).long()).view_as(labels)] = 0
    maps = torch.rand(count, classes, 2, 3, generator=generator)
    return torch.rand(count, 3, 2, 3, generator=generator), labels, maps, known


class TestMix:
    def test_smoke(self) -> None:
        given_batch = batch()
        mixed = mix(*given_batch, generator=seeded())
        assert isinstance(mixed, Mixed)
        assert [(one.shape, one.dtype) for one in mixed] == [(one.shape, one.dtype) for one in given_batch]

    def test_golden(self, golden: Golden) -> None:
        case = golden("recurseed_cf_mix")
        images, labels, maps, classes, partners, pasted = (
            torch.from_numpy(case[key]) for key in ("images", "cf_labels", "rs_maps", "image_labels", "perm", "fg_mask")
        )
        mixed = mix(images, labels, maps, classes, partners=partners)
        assert torch.equal(mixed.images, torch.from_numpy(case["mix_images"]))
        assert torch.equal(mixed.labels, torch.from_numpy(case["mix_labels"]))
        assert torch.equal(mixed.maps, torch.from_numpy(case["mix_rs"]))
        marks = torch.arange(len(images)).view(-1, 1, 1, 1).expand_as(images[:, :1])
        changed = mix(marks, labels, maps, classes, partners=partners).images[:, 0]
        assert torch.equal(changed == marks[:, 0], pasted)

    @given(seed=st.integers(0, 2**31), count=st.integers(2, 4))
    @settings(max_examples=20, deadline=None)
    def test_never_invents_a_class(self, seed: int, count: int) -> None:
        images, labels, maps, classes = batch(seed, count)
        partners = draw_partners(count, seeded(seed))
        mixed = mix(images, labels, maps, classes, partners=partners)
        assert (mixed.classes <= torch.maximum(classes, classes[partners])).all()
        for row, found in zip(mixed.classes, mixed.labels, strict=True):
            assert set(found.unique().tolist()) - {0, 255} <= set((row.nonzero()[:, 0] + 1).tolist())

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_every_pixel_is_of_one_of_two(self, seed: int) -> None:
        images, labels, maps, classes = batch(seed)
        partners = draw_partners(3, seeded(seed))
        mixed = mix(images, labels, maps, classes, partners=partners)
        own = (mixed.images == images).all(dim=1) & (mixed.labels == labels)
        other = (mixed.images == images[partners]).all(dim=1) & (mixed.labels == labels[partners])
        assert (own | other).all()
        assert own[(labels != 0) & (labels != 255)].all()

    def test_with_itself_nothing_changes(self) -> None:
        given_batch = batch(1)
        mixed = mix(*given_batch, partners=torch.arange(3))
        assert all(torch.equal(one, other) for one, other in zip(mixed[:3], given_batch))

    @pytest.mark.parametrize(
        ("pasted", "below", "known", "expected"),
        [
            ([1, 0], [2, 2], [[1, 0, 0], [0, 1, 0]], [1, 1, 0]),  # One labelled pixel of the partner shows.
            ([1, 0], [2, 0], [[1, 0, 0], [0, 1, 0]], [1, 0, 0]),  # The only one is covered.
            ([1, 0], [2, 0], [[1, 0, 1], [0, 1, 0]], [1, 0, 0]),  # What is not labelled is not pasted.
            ([1, 0], [0, 255], [[1, 0, 0], [0, 0, 1]], [1, 0, 1]),  # The partner may show it anywhere,
            ([1, 1], [0, 255], [[1, 0, 0], [0, 0, 1]], [1, 0, 0]),  # unless it does not show.
        ],
    )
    def test_classes(self, pasted: list[int], below: list[int], known: list[list[int]], expected: list[int]) -> None:
        labels = torch.tensor([[pasted], [below]], dtype=torch.uint8)
        empty = torch.zeros(2, 3, 1, 2)
        mixed = mix(empty, labels, empty, torch.tensor(known), partners=torch.tensor([1, 0]))
        assert mixed.classes[0].tolist() == expected

    def test_maps_carry_no_gradient(self) -> None:
        images, labels, maps, classes = batch()
        mixed = mix(images.requires_grad_(), labels, maps.requires_grad_(), classes)
        assert mixed.images.requires_grad
        assert not mixed.maps.requires_grad

    def test_the_generator_alone_decides(self) -> None:
        given_batch = batch(count=8)
        before = torch.get_rng_state()
        one, same, other = (mix(*given_batch, generator=seeded(seed)).images for seed in (3, 3, 4))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), before)

    def test_refuses_labels_above_the_classes(self) -> None:
        images, labels, maps, classes = batch()
        labels[1, 1, 2] = 4
        with pytest.raises(ValueError, match=r"labels 0\.\.3 or 255, got \[4\] at 1 pixels"):
            mix(images, labels, maps, classes)

    @pytest.mark.parametrize("which", range(4))
    def test_refuses_shapes_that_do_not_agree(self, which: int) -> None:
        parts = list(batch())
        parts[which] = parts[which][:, :1] if which else parts[which][..., :2]
        with pytest.raises(ValueError, match=r"expected images \[B, C, H, W\]"):
            mix(*parts)

    def test_refuses_other_types(self) -> None:
        images, labels, maps, classes = batch()
        with pytest.raises(TypeError, match=r"uint8 labels, got torch\.int64"):
            mix(images, labels.long(), maps, classes)
        with pytest.raises(TypeError, match=r"int64 partners, got torch\.float32"):
            mix(images, labels, maps, classes, partners=torch.zeros(3))

    @pytest.mark.parametrize("partners", [[0, 1], [0, 1, 3], [0, -1, 1]])
    def test_refuses_partners_outside_of_the_batch(self, partners: list[int]) -> None:
        with pytest.raises(ValueError, match=r"3 partners, each in 0\.\.2, got \["):
            mix(*batch(), partners=torch.tensor(partners))


class TestDrawPartners:
    @given(seed=st.integers(0, 2**31), count=st.integers(2, 9))
    @settings(max_examples=10, deadline=None)
    def test_nobody_is_its_own_partner(self, seed: int, count: int) -> None:
        drawn = draw_partners(count, seeded(seed))
        assert ((drawn >= 0) & (drawn < count) & (drawn != torch.arange(count))).all()

    def test_all_others_alike(self) -> None:
        generator = seeded()
        drawn = torch.stack([draw_partners(4, generator) for _ in range(3000)])
        for row in range(4):
            shares = torch.bincount(drawn[:, row], minlength=4) / len(drawn)
            expected = torch.full((4,), 1 / 3)
            expected[row] = 0
            torch.testing.assert_close(shares, expected, rtol=0, atol=0.04)

    @pytest.mark.parametrize("count", [0, 1])
    def test_refuses_too_few(self, count: int) -> None:
        with pytest.raises(ValueError, match=f"at least two images to mix, got {count}"):
            draw_partners(count)
