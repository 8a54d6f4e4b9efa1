import pytest
import torch
from torch import nn

from methods.activation import Record, record
from methods.activation.fuse import fuse
from methods.activation.grad_cam import grad_cam
from methods.activation.grad_cam_plus_plus import grad_cam_plus_plus
from methods.activation.layer_cam import layer_cam
from methods.activation.soft_maps import map_flags, soft_maps
from methods.activation.truncate import truncate
from methods.activation.xgrad_cam import xgrad_cam

SINGLE = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
    "xgrad_cam": xgrad_cam,
}


@pytest.fixture
def recorded(small_net: nn.Module) -> Record:
    torch.manual_seed(5)
    pairs = torch.tensor([[2, 1], [0, 4], [2, 0]])
    return record(small_net, torch.rand(3, 3, 8, 8), pairs, ["2", "4"])


class TestSoftMaps:
    @pytest.mark.parametrize("method", ["grad_cam", "grad_cam_plus_plus", "layer_cam", "xgrad_cam"])
    def test_one_layer_is_the_method(self, recorded: Record, method: str) -> None:
        maps = soft_maps(recorded, method, ["4"])
        assert (maps.shape, maps.dtype) == ((3, 4, 4), torch.float32)
        assert torch.equal(maps, SINGLE[method](*recorded.paired("4")))

    def test_golden(self) -> None:
        # One channel, one pair: weight = mean gradient 0.5; map = relu(0.5 * activation).
        activations, gradients = torch.tensor([[[[2.0, -4.0]]]]), torch.tensor([[[[2.0, -1.0]]]])
        made = Record({"a": activations}, {"a": gradients}, torch.zeros(1, 1), torch.tensor([[0, 0]]))
        assert soft_maps(made, "grad_cam", ["a"]).tolist() == [[[1.0, 0.0]]]
        # Truncated at 0, only the positive gradient stays: weight = 2 / 2.
        assert soft_maps(made, "grad_cam", ["a"], truncation=0).tolist() == [[[2.0, 0.0]]]
        assert soft_maps(made, "layer_cam", ["a"]).tolist() == [[[4.0, 0.0]]]

    def test_rows_follow_the_pairs(self, recorded: Record) -> None:
        order = torch.tensor([2, 0, 1])
        turned = Record(
            recorded.activations,
            {name: value[order] for name, value in recorded.gradients.items()},
            recorded.logits,
            recorded.pairs[order],
        )
        expected = soft_maps(recorded, "layer_cam", ["4", "2"])[order]
        assert torch.equal(soft_maps(turned, "layer_cam", ["4", "2"]), expected)

    @pytest.mark.parametrize("population", ["channel", "layer"])
    @pytest.mark.parametrize("fusion", ["sum", "mean_norm", "max_tanh"])
    def test_truncated_and_fused_by_hand(self, recorded: Record, population: str, fusion: str) -> None:
        parts = []
        for layer in ("2", "4"):
            activations, gradients = recorded.paired(layer)
            parts.append(layer_cam(activations, truncate(gradients, 60, population)))
        found = soft_maps(recorded, "layer_cam", ["2", "4"], truncation=60, population=population, fusion=fusion)
        assert found.shape == (3, 8, 8)
        assert torch.equal(found, fuse(parts, (8, 8), fusion))

    def test_largest_layer_gives_the_size(self, recorded: Record) -> None:
        for layers in (["2", "4"], ["4", "2"]):
            assert soft_maps(recorded, "grad_cam", layers).shape == (3, 8, 8)

    def test_one_layer_is_normalised_where_the_fusion_does_it(self, recorded: Record) -> None:
        maps = soft_maps(recorded, "layer_cam", ["4"], fusion="mean_norm")
        assert maps.amin(dim=(1, 2)).tolist() == [0.0] * 3
        torch.testing.assert_close(maps.amax(dim=(1, 2)), torch.ones(3))

    def test_recording_is_left_as_it_was(self, recorded: Record) -> None:
        before = {name: value.clone() for name, value in recorded.gradients.items()}
        kept = {name: value.clone() for name, value in recorded.activations.items()}
        for method in SINGLE:
            soft_maps(recorded, method, ["2", "4"], truncation=50)
        assert all(torch.equal(recorded.gradients[name], value) for name, value in before.items())
        assert all(torch.equal(recorded.activations[name], value) for name, value in kept.items())

    def test_no_pairs(self, small_net: nn.Module) -> None:
        nothing = record(small_net, torch.rand(2, 3, 8, 8), torch.empty(0, 2, dtype=torch.int64), ["2", "4"])
        assert soft_maps(nothing, "grad_cam", ["2", "4"], truncation=50).shape == (0, 8, 8)


class TestMapFlags:
    def test_smoke(self) -> None:
        maps = torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, float("nan")], [float("inf"), 0.0], [0.0, 0.0]])
        assert map_flags(maps.view(5, 1, 2)) == ["", "constant", "nonfinite", "nonfinite", "constant"]

    def test_all_nan_is_nonfinite(self) -> None:
        assert map_flags(torch.full((1, 2, 2), float("nan"))) == ["nonfinite"]
        assert map_flags(torch.full((1, 2, 2), float("inf"))) == ["nonfinite"]

    def test_none(self) -> None:
        assert map_flags(torch.zeros(0, 2, 2)) == []
