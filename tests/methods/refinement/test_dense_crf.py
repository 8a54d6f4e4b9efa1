import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from methods.refinement.dense_crf import DenseCrfMissingError, dense_crf, require_pydensecrf

IMAGES = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5).to(torch.uint8)
EVEN = torch.full((2, 2, 4, 5), 0.5)


class Recorder:
    """Stands in for ``DenseCRF2D``: keeps what it is told, and infers the softmax of the negated energies."""

    made: list["Recorder"]
    value: float | None = None

    def __init__(self, width: int, height: int, classes: int) -> None:
        self.size = (width, height, classes)
        self.calls: dict[str, Any] = {}
        type(self).made.append(self)

    def setUnaryEnergy(self, energies: NDArray[np.float32]) -> None:  # noqa: N802
        self.energies = energies

    def addPairwiseGaussian(self, **options: Any) -> None:  # noqa: N802
        self.calls["gaussian"] = options

    def addPairwiseBilateral(self, *, rgbim: NDArray[np.uint8], **options: Any) -> None:  # noqa: N802
        self.pixels, self.calls["bilateral"] = rgbim, options

    def inference(self, iterations: int) -> list[list[float]]:
        self.calls["iterations"] = iterations
        likely = np.exp(-self.energies)
        found: list[list[float]] = (likely / likely.sum(0)).tolist()
        return found if self.value is None else [[self.value] * len(row) for row in found]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    """A module in the place of pydensecrf."""

    class Fresh(Recorder):
        made: list[Recorder] = []  # noqa: RUF012

    module = ModuleType("pydensecrf.densecrf")
    module.DenseCRF2D = Fresh  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pydensecrf", ModuleType("pydensecrf"))
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", module)
    return Fresh


class TestDenseCrf:
    def test_without_the_package_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pydensecrf", None)
        monkeypatch.delitem(sys.modules, "pydensecrf.densecrf", raising=False)
        with pytest.raises(DenseCrfMissingError, match=r"pip install pydensecrf.*or refine with pamr"):
            dense_crf(IMAGES, EVEN)
        with pytest.raises(ImportError):
            require_pydensecrf()

    def test_smoke(self, recorder: type[Recorder]) -> None:
        refined = dense_crf(IMAGES, EVEN.double())
        assert refined.shape == EVEN.shape
        assert refined.dtype == torch.float32
        assert len(recorder.made) == 2

    def test_published_settings(self, recorder: type[Recorder]) -> None:
        dense_crf(IMAGES, EVEN)
        assert recorder.made[0].calls == {
            "gaussian": {"sxy": 3, "compat": 3},
            "bilateral": {"sxy": 80, "srgb": 13, "compat": 10},
            "iterations": 10,
        }

    def test_other_settings(self, recorder: type[Recorder]) -> None:
        options: dict[str, Any] = {"gaussian_sigma": 1, "gaussian_weight": 2, "iterations": 4}
        dense_crf(IMAGES, EVEN, bilateral_sigma_xy=67, bilateral_sigma_rgb=5, bilateral_weight=0, **options)
        assert recorder.made[1].calls == {
            "gaussian": {"sxy": 1, "compat": 2},
            "bilateral": {"sxy": 67, "srgb": 5, "compat": 0},
            "iterations": 4,
        }

    def test_what_the_package_is_given(self, recorder: type[Recorder]) -> None:
        probabilities = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
        probabilities[0, :, 0, 0] = torch.tensor([0, 0, 1])
        refined = dense_crf(IMAGES, probabilities)
        for image, given, made in zip(IMAGES, probabilities, recorder.made):
            assert made.size == (5, 4, 3)
            assert made.energies.dtype == np.float32
            assert made.energies.flags.c_contiguous
            assert made.pixels.flags.c_contiguous
            assert np.array_equal(made.pixels, image.permute(1, 2, 0).numpy())
            assert np.allclose(made.energies, -np.log(np.maximum(given.flatten(1).numpy(), 1e-5)), atol=1e-6)
        torch.testing.assert_close(refined, probabilities, rtol=0, atol=5e-5)

    @pytest.mark.parametrize("shape", [(0, 2, 4, 5), (1, 2, 0, 5), (1, 2, 1, 1), (1, 1, 2, 4000)])
    def test_sizes(self, recorder: type[Recorder], shape: tuple[int, ...]) -> None:
        images = torch.zeros(shape[0], 3, *shape[2:], dtype=torch.uint8)
        assert dense_crf(images, torch.full(shape, 0.5)).shape == shape
        assert len(recorder.made) == (1 if 0 not in shape else 0)

    def test_refuses_a_result_that_is_not_finite(
        self, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "value", float("nan"))
        with pytest.raises(ValueError, match="finite probabilities from pydensecrf"):
            dense_crf(IMAGES, EVEN)

    @pytest.mark.parametrize("value", ["nan", "inf", "1.5", "-0.5"])
    def test_refuses_what_are_no_probabilities(self, value: str) -> None:
        with pytest.raises(ValueError, match=r"finite probabilities|probabilities in 0\.\.1"):
            dense_crf(IMAGES, torch.full_like(EVEN, float(value)))

    def test_refuses_other_dtypes(self) -> None:
        with pytest.raises(TypeError, match="uint8 images"):
            dense_crf(IMAGES.float(), EVEN)
        with pytest.raises(TypeError, match="floating point probabilities"):
            dense_crf(IMAGES, EVEN.long())

    @pytest.mark.parametrize("shape", [(2, 2, 5, 4), (1, 2, 4, 5), (2, 4, 5)])
    def test_refuses_shapes_that_do_not_agree(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected images .* \(2, 3, 4, 5\)"):
            dense_crf(IMAGES, torch.zeros(shape))

    @pytest.mark.parametrize(
        "option",
        [{"iterations": 0}, {"gaussian_sigma": 0}, {"bilateral_sigma_rgb": float("nan")}, {"bilateral_weight": -1}],
    )
    def test_refuses_options_out_of_range(self, option: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=f"expected {next(iter(option))} >"):
            dense_crf(IMAGES, EVEN, **option)
