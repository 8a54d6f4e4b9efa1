import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.activation import fuse, grad_cam, layer_cam, min_max

NAN, INF = float("nan"), float("inf")
STAGES = ["S3", "S4", "S5"]


class TestMinMax:
    def test_smoke(self) -> None:
        assert min_max(torch.rand(2, 3, 4)).shape == (2, 3, 4)
        assert min_max(torch.rand(0, 3, 4)).shape == (0, 3, 4)

    @given(st.integers(0, 2**31), st.floats(0.1, 100), st.floats(-100, 100))
    @settings(max_examples=20, deadline=None)
    def test_spans_zero_to_one_whatever_scale_and_shift(self, seed: int, scale: float, shift: float) -> None:
        torch.manual_seed(seed)
        maps = torch.rand(3, 4, 4, dtype=torch.float64)
        found = min_max(maps)
        assert found.amin((1, 2)).tolist() == [0, 0, 0]
        assert found.amax((1, 2)).tolist() == [1, 1, 1]
        torch.testing.assert_close(min_max(scale * maps + shift), found)

    @pytest.mark.parametrize("eps", [0.0, 1e-7])
    def test_constant_map_is_zero(self, eps: float) -> None:
        assert not min_max(torch.full((2, 3, 3), 7.0), eps).any()

    def test_eps_only_in_the_divisor(self) -> None:
        assert min_max(torch.tensor([[[1.0, 2.0]]]), eps=1.0).tolist() == [[[0.0, 0.5]]]

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    @pytest.mark.parametrize("constant", [False, True])
    def test_shows_what_is_not_finite(self, bad: float, constant: bool) -> None:
        maps = torch.full((2, 2, 2), bad) if constant else torch.rand(2, 2, 2)
        maps[1] = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
        maps[0, 0, 0] = bad
        found = min_max(maps)
        assert found[0].isnan().any()
        assert found[1].tolist() == [[0.0, 0.25], [0.5, 1.0]]

    def test_refuses_negative_eps(self) -> None:
        with pytest.raises(ValueError, match="eps >= 0, got -1"):
            min_max(torch.rand(1, 2, 2), -1)


class TestFuse:
    def test_smoke(self) -> None:
        for mode in ("sum", "mean_norm", "max_tanh"):
            assert fuse([torch.rand(2, 3, 3), torch.rand(2, 6, 5)], (12, 10), mode).shape == (2, 12, 10)
            assert fuse([torch.rand(0, 3, 3)], 4, mode).shape == (0, 4, 4)

    @pytest.mark.parametrize(("name", "method"), [("GradCAM", grad_cam), ("LayerCAM", layer_cam)])
    def test_golden_mean_norm(self, cam_case, name: str, method) -> None:
        expected = cam_case.arrays[f"pgc_{name}_S345_mean"]
        found = fuse([method(*cam_case.at(stage)) for stage in STAGES], tuple(expected.shape[1:]), "mean_norm")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    def test_golden_max_tanh(self, cam_case) -> None:
        expected = cam_case.arrays["torchcam_LayerCAM_S345_fused"]
        found = fuse([layer_cam(*cam_case.at(stage)) for stage in STAGES], tuple(expected.shape[1:]), "max_tanh")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    def test_sum_is_not_normalised(self) -> None:
        maps = [torch.full((1, 2, 2), 3.0), torch.full((1, 4, 4), -1.0)]
        assert torch.equal(fuse(maps, 4), torch.full((1, 4, 4), 2.0))

    @pytest.mark.parametrize("mode", ["sum", "mean_norm", "max_tanh"])
    def test_constant_maps_stay_constant(self, mode: str) -> None:
        found = fuse([torch.full((1, 3, 3), 0.3), torch.full((1, 7, 7), 1.7)], (61, 53), mode)
        assert not min_max(found).any()

    def test_mean_norm_rectifies(self) -> None:
        assert not fuse([-torch.rand(1, 2, 2)], 2, "mean_norm").any()

    def test_max_tanh_at_the_maps_own_size(self) -> None:
        found = fuse([torch.tensor([[[0.0, 10.0]]])], (1, 2), "max_tanh")
        torch.testing.assert_close(found, torch.tensor([[[0.0, 2.0]]]).tanh())

    @given(st.integers(0, 2**31), st.sampled_from(["sum", "mean_norm", "max_tanh"]))
    @settings(max_examples=15, deadline=None)
    def test_order_of_layers_does_not_matter(self, seed: int, mode: str) -> None:
        torch.manual_seed(seed)
        maps = [torch.rand(2, 2, 3), torch.rand(2, 4, 6), torch.rand(2, 8, 12)]
        torch.testing.assert_close(fuse(maps, (8, 12), mode), fuse(maps[::-1], (8, 12), mode))

    @pytest.mark.parametrize("mode", ["sum", "mean_norm", "max_tanh"])
    def test_shows_nan_and_leaves_inputs_alone(self, mode: str) -> None:
        maps = [torch.rand(2, 2, 2), torch.rand(2, 4, 4)]
        maps[0][1, 0, 0] = NAN
        before = [layer.clone() for layer in maps]
        found = fuse(maps, 4, mode)
        assert found.isnan().flatten(1).any(1).tolist() == [False, True]
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(maps, before, strict=True))

    @pytest.mark.parametrize(
        ("maps", "size", "mode", "message"),
        [
            ([], 4, "sum", r"one \[P, h, w\] per layer"),
            ([(1, 2, 2), (2, 2, 2)], 4, "sum", r"\[\(1, 2, 2\), \(2, 2, 2\)\]"),
            ([(1, 3, 2, 2)], 4, "sum", "with one P"),
            ([(1, 2, 2)], (0, 4), "sum", "at least 1 pixel"),
            ([(1, 2, 2)], 4, "mean", "got 'mean'"),
        ],
    )
    def test_refusals(self, maps: list, size, mode: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            fuse([torch.rand(shape) for shape in maps], size, mode)
