from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import one_hot

from methods.refinement import canny, certain_filter, edge_predict, pamr
from methods.training.edge_predict_targets import edge_predict_targets

Golden = Callable[[str], dict[str, Any]]
SURE = 30.0


def batch(seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Logits on half the grid, blotchy images and classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, classes + 1, 12, 16, generator=generator)
    coarse = torch.randint(256, (2, 3, 3, 4), generator=generator).to(torch.uint8)
    known = (torch.rand(2, classes, generator=generator) > 0.4).float()
    return logits, coarse.repeat_interleave(8, 2).repeat_interleave(8, 3), known


def logits_of(labels: Tensor, classes: int) -> Tensor:
    """Logits that the certain filter turns into these labels: classes alike, or alike to background, are doubtful."""
    doubtful = labels == 255
    sure = one_hot(torch.where(doubtful, 0, labels).long(), classes + 1).movedim(-1, 1) * SURE
    undecided = torch.full_like(sure, -SURE)
    undecided[:, :2] = 0
    return torch.where(doubtful[:, None], undecided, sure).float()


class TestEdgePredictTargets:
    @pytest.mark.parametrize("source", ["mask", "image"])
    def test_smoke(self, source: Literal["mask", "image"]) -> None:
        logits, images, classes = batch()
        found = edge_predict_targets(logits, images, classes, source=source)
        assert found.shape == (2, 24, 32)
        assert found.dtype == torch.uint8

    def test_golden(self, golden: Golden) -> None:
        case = golden("edge_predict")
        images = torch.from_numpy(case["image_rgb"]).movedim(-1, 1).contiguous()
        labels, edges = (torch.from_numpy(case[key]) for key in ("label_in", "edge"))
        count = int(labels[labels != 255].max())
        classes = torch.ones(len(labels), count)
        found = edge_predict_targets(logits_of(labels, count), images, classes, source="image", pamr=False)
        # Other cases have edges made by hand.
        seen = (torch.from_numpy(case["canny_reference"]) == edges).flatten(1).all(dim=1)
        assert seen.any()
        assert torch.equal(found[seen], torch.from_numpy(case["label_out"])[seen])

    def test_steps(self) -> None:
        logits, images, classes = batch()
        large = torch.nn.functional.interpolate(logits, (24, 32), mode="bilinear")
        maps = pamr(images / 255, large.softmax(1)[:, 1:] * classes[:, :, None, None])
        labels = certain_filter(maps)
        mask = canny((255 * maps.amax(1, keepdim=True)).round().to(torch.uint8))
        for edges, source in ((mask, "mask"), (canny(images), "image")):
            assert torch.equal(
                edge_predict_targets(logits, images, classes, source=source),  # type: ignore[arg-type]
                edge_predict(labels, edges),
            )

    def test_other_bounds(self) -> None:
        given_batch = batch()
        found = edge_predict_targets(*given_batch, pamr=False, foreground=1.0, background=1.0)
        assert ((found == 0) | (found == 255)).all()

    @given(seed=st.integers(0, 2**31), source=st.sampled_from(["mask", "image"]), pamr=st.booleans())
    @settings(max_examples=12, deadline=None)
    def test_absent_classes_never_enter(self, seed: int, source: Any, pamr: bool) -> None:
        logits, images, classes = batch(seed)
        found = edge_predict_targets(logits, images, classes, source=source, pamr=pamr)
        for row, known in zip(found, classes, strict=True):
            assert set(row.unique().tolist()) <= {0, 255, *(known.nonzero()[:, 0] + 1).tolist()}

    def test_no_class_is_all_background(self) -> None:
        logits, images, classes = batch()
        assert not edge_predict_targets(logits, images, torch.zeros_like(classes)).any()

    def test_half_precision_is_computed_in_full(self) -> None:
        logits, images, classes = batch()
        logits = logits.bfloat16()
        expected = edge_predict_targets(logits.float(), images, classes)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(edge_predict_targets(logits, images, classes), expected)

    def test_refuses_other_sources(self) -> None:
        with pytest.raises(ValueError, match="expected source mask or image, got 'edges'"):
            edge_predict_targets(*batch(), source="edges")  # type: ignore[arg-type]

    def test_refuses_images_that_are_not_bytes(self) -> None:
        logits, images, classes = batch()
        with pytest.raises(TypeError, match=r"uint8 images as shown, got torch\.float32"):
            edge_predict_targets(logits, images / 255, classes)

    @pytest.mark.parametrize("which", range(3))
    def test_refuses_shapes_that_do_not_agree(self, which: int) -> None:
        parts = list(batch())
        parts[which] = parts[which][:, :1]
        with pytest.raises(ValueError, match=r"expected logits \[B, K \+ 1, h, w\]"):
            edge_predict_targets(*parts)

    def test_refuses_nan(self) -> None:
        logits, images, classes = batch()
        logits[0, 0, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="finite"):
            edge_predict_targets(logits, images, torch.ones_like(classes))
