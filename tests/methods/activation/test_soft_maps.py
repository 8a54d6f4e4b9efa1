import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.activation import (
    Recipe,
    Record,
    UnknownLayerError,
    fuse,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    map_flags,
    record,
    soft_maps,
    truncate,
    xgrad_cam,
)

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


def by_hand(made: Record, recipe: Recipe) -> Tensor:
    """A recipe from the functions of one method each."""
    maps = []
    for layer in recipe.layers:
        activations, gradients = made.paired(layer)
        if recipe.truncation is not None:
            gradients = truncate(gradients, recipe.truncation, recipe.population)
        maps.append(SINGLE[recipe.method](activations, gradients).float())
    if len(maps) == 1 and recipe.fusion == "sum":
        return maps[0]
    return fuse(maps, max((tuple(one.shape[1:]) for one in maps), key=lambda s: s[0] * s[1]), recipe.fusion)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()) + 1e-30)


class TestSoftMaps:
    def test_smoke(self, recorded: Record) -> None:
        maps = soft_maps(recorded, [Recipe("grad_cam", ("4",)), Recipe("layer_cam", ("2", "4"), 30)])
        assert [tuple(one.shape) for one in maps] == [(3, 4, 4), (3, 8, 8)]
        assert {one.dtype for one in maps} == {torch.float32}
        assert soft_maps(recorded, []) == []

    def test_golden(self) -> None:
        # One channel, one pair: weight = mean gradient 0.5; map = relu(0.5 * activation).
        activations, gradients = torch.tensor([[[[2.0, -4.0]]]]), torch.tensor([[[[2.0, -1.0]]]])
        made = Record({"a": activations}, {"a": gradients}, torch.zeros(1, 1), torch.tensor([[0, 0]]))
        plain, truncated, pixels = soft_maps(
            made, [Recipe("grad_cam", ("a",)), Recipe("grad_cam", ("a",), 0), Recipe("layer_cam", ("a",))]
        )
        assert plain.tolist() == [[[1.0, 0.0]]]
        # Truncated at 0, only the positive gradient stays: weight = 2 / 2.
        assert truncated.tolist() == [[[2.0, 0.0]]]
        assert pixels.tolist() == [[[4.0, 0.0]]]

    @given(
        st.lists(
            st.builds(
                Recipe,
                st.sampled_from(list(SINGLE)),
                st.lists(st.sampled_from(["2", "4"]), min_size=1, max_size=2, unique=True).map(tuple),
                st.none() | st.integers(0, 100),
                st.sampled_from(["channel", "layer"]),
                st.sampled_from(["sum", "mean_norm", "max_tanh"]),
            ),
            max_size=8,
        ),
        st.integers(0, 2**31),
    )
    @settings(max_examples=25, deadline=None)
    def test_equals_the_methods_one_by_one(self, recipes: list[Recipe], seed: int) -> None:
        torch.manual_seed(seed)
        pairs = torch.tensor([[2, 1], [0, 4], [2, 0], [1, 1]])
        sizes = {"2": (5, 8, 9), "4": (6, 4, 4)}
        made = Record(
            {layer: torch.rand(3, *size) for layer, size in sizes.items()},
            {layer: torch.randn(4, *size) for layer, size in sizes.items()},
            torch.zeros(3, 5),
            pairs,
        )
        for recipe, found in zip(recipes, soft_maps(made, recipes), strict=True):
            assert_close(found, by_hand(made, recipe))

    def test_sweep_of_percentiles(self, recorded: Record) -> None:
        sweep = [Recipe("layer_cam", ("2", "4"), percentile) for percentile in range(0, 100, 10)]
        for recipe, found in zip(sweep, soft_maps(recorded, sweep), strict=True):
            assert_close(found, by_hand(recorded, recipe))

    def test_rows_follow_the_pairs(self, recorded: Record) -> None:
        order = torch.tensor([2, 0, 1])
        turned = Record(
            recorded.activations,
            {name: value[order] for name, value in recorded.gradients.items()},
            recorded.logits,
            recorded.pairs[order],
        )
        recipes = [Recipe(method, ("4", "2")) for method in SINGLE]
        for found, expected in zip(soft_maps(turned, recipes), soft_maps(recorded, recipes), strict=True):
            assert_close(found, expected[order])

    def test_one_layer_is_normalised_where_the_fusion_does_it(self, recorded: Record) -> None:
        (maps,) = soft_maps(recorded, [Recipe("layer_cam", ("4",), fusion="mean_norm")])
        assert maps.amin(dim=(1, 2)).tolist() == [0.0] * 3
        torch.testing.assert_close(maps.amax(dim=(1, 2)), torch.ones(3))

    def test_recording_is_left_as_it_was(self, recorded: Record) -> None:
        before = {name: value.clone() for name, value in recorded.gradients.items()}
        kept = {name: value.clone() for name, value in recorded.activations.items()}
        soft_maps(recorded, [Recipe(method, ("2", "4"), 50) for method in SINGLE])
        assert all(torch.equal(recorded.gradients[name], value) for name, value in before.items())
        assert all(torch.equal(recorded.activations[name], value) for name, value in kept.items())

    def test_no_pairs(self, small_net: nn.Module) -> None:
        nothing = record(small_net, torch.rand(2, 3, 8, 8), torch.empty(0, 2, dtype=torch.int64), ["2", "4"])
        (maps,) = soft_maps(nothing, [Recipe("grad_cam", ("2", "4"), 50)])
        assert maps.shape == (0, 8, 8)

    def test_refuses_a_layer_that_was_not_recorded(self, recorded: Record) -> None:
        with pytest.raises(UnknownLayerError, match=r"'7' was not recorded, there are \['2', '4'\]"):
            soft_maps(recorded, [Recipe("grad_cam", ("4", "7"))])


class TestRecipe:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("cam", ("a",)), "expected method as one of .* got 'cam'"),
            (("grad_cam", ()), r"layers as a tuple of at least one name, got \(\)"),
            (("grad_cam", "a"), "layers as a tuple of at least one name, got 'a'"),
            (("grad_cam", ("a",), 101), "percentile as an integer in 0..100, got 101"),
            (("grad_cam", ("a",), None, "image"), "population 'channel' or 'layer', got 'image'"),
            (("grad_cam", ("a",), None, "layer", "mean"), "fusion as one of .* got 'mean'"),
        ],
    )
    def test_refuses(self, arguments: tuple, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Recipe(*arguments)


class TestMapFlags:
    def test_smoke(self) -> None:
        maps = torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, float("nan")], [float("inf"), 0.0], [0.0, 0.0]])
        assert map_flags(maps.view(5, 1, 2)) == ["", "constant", "nonfinite", "nonfinite", "constant"]

    def test_all_nan_is_nonfinite(self) -> None:
        assert map_flags(torch.full((1, 2, 2), float("nan"))) == ["nonfinite"]
        assert map_flags(torch.full((1, 2, 2), float("inf"))) == ["nonfinite"]

    def test_none(self) -> None:
        assert map_flags(torch.zeros(0, 2, 2)) == []
