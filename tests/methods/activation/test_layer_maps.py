import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import methods.activation.layer_maps as module
from methods.activation import grad_cam, grad_cam_plus_plus, layer_cam, truncate, xgrad_cam
from methods.activation.layer_maps import Kind, layer_maps

SINGLE: dict[str, Callable[..., Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
}
KINDS = [
    Kind(method, truncation, population)
    for method in SINGLE
    for truncation, population in ((None, "channel"), (0, "layer"), (20, "channel"), (60, "channel"), (60, "layer"))
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def sample(
    pairs: int = 4, dtype: torch.dtype = torch.float32, layout: torch.memory_format = torch.contiguous_format
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(pairs)
    activations, gradients = torch.randn(pairs, 6, 5, 7).relu(), torch.randn(pairs, 6, 5, 7)
    gradients[0, 0] = -gradients[0, 0].abs()
    return tuple(one.to(dtype).to(memory_format=layout) for one in (activations, gradients))


def by_hand(activations: Tensor, gradients: Tensor, kind: Kind) -> Tensor:
    if kind.truncation is not None:
        gradients = truncate(gradients, kind.truncation, kind.population)
    return SINGLE[kind.method](activations, gradients)


class TestLayerMaps:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_equals_the_methods_one_by_one(self, device: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
        activations, gradients = (one.to(device) for one in sample(dtype=dtype, layout=layout))
        found = layer_maps(activations, gradients, torch.arange(4, device=device), KINDS)
        assert list(found) == KINDS
        for kind, maps in found.items():
            expected = by_hand(activations, gradients, kind)
            assert maps.dtype == expected.dtype
            torch.testing.assert_close(maps, expected, rtol=0, atol=1e-6 * float(expected.max()))

    @pytest.mark.parametrize("size", [1, 2 * 6 * 5 * 7, 10**9])
    def test_any_number_of_pairs_at_once(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        activations, gradients = sample(5)
        rows = torch.tensor([0, 1, 3, 2, 2])
        expected = {kind: by_hand(activations[rows], gradients, kind) for kind in KINDS}
        monkeypatch.setitem(module.CHUNK, "cpu", size)
        for kind, maps in layer_maps(activations, gradients, rows, KINDS).items():
            torch.testing.assert_close(maps, expected[kind], rtol=0, atol=1e-6 * float(expected[kind].max()))

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_gradients_in_a_layout_of_their_own(self, layout: torch.memory_format) -> None:
        activations, gradients = sample()
        expected = layer_maps(activations, gradients, torch.arange(4), KINDS)
        other = gradients.permute(0, 1, 3, 2).contiguous(memory_format=layout).permute(0, 1, 3, 2)
        for kind, maps in layer_maps(activations, other, torch.arange(4), KINDS).items():
            torch.testing.assert_close(maps, expected[kind])
        constant = gradients[:, :, :1, :1].expand_as(gradients)
        for kind, maps in layer_maps(activations, constant, torch.arange(4), KINDS).items():
            torch.testing.assert_close(maps, by_hand(activations, constant.contiguous(), kind))

    @pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf")])
    def test_what_is_not_finite_stays_visible(self, value: float) -> None:
        for place in range(2):
            both = sample()
            both[place][1, 2, 3, 3] = value
            for kind, maps in layer_maps(*both, torch.arange(4), KINDS).items():
                expected = by_hand(*both, kind)
                assert not (maps[1].isfinite() & ~expected[1].isfinite()).any()
                torch.testing.assert_close(maps[[0, 2, 3]], expected[[0, 2, 3]])

    def test_constant_inputs(self) -> None:
        zeros, ones = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
        for maps in layer_maps(ones, zeros, torch.tensor([0]), KINDS).values():
            assert not maps.any()
        for maps in layer_maps(ones, -ones, torch.tensor([0]), KINDS).values():
            assert not maps.any()

    @pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_compiled(self, layout: torch.memory_format, caplog: pytest.LogCaptureFixture) -> None:
        both = sample(layout=layout)
        both[1][1, 2, 3, 3] = torch.nan
        expected = layer_maps(*both, torch.arange(4), KINDS)
        for kind, maps in layer_maps(*both, torch.arange(4), KINDS, compiled=True).items():
            torch.testing.assert_close(
                maps, expected[kind], rtol=0, atol=1e-5 * float(expected[kind][0].max()), equal_nan=True
            )
        assert not [one for one in caplog.records if one.name.startswith("methods")]

    def test_leaves_no_graph(self) -> None:
        activations, gradients = (one.requires_grad_() for one in sample())
        assert not any(one.requires_grad for one in layer_maps(activations, gradients, torch.arange(4), KINDS).values())
