"""What holds for every method of the family alike."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.activation import (
    ablation_cam,
    full_grad,
    full_gradients,
    fuse,
    grad_cam,
    grad_cam_plus_plus,
    is_cam,
    layer_cam,
    min_max,
    record,
    score_cam,
    smooth_grad_cam_plus_plus,
    ss_cam,
    truncate,
    xgrad_cam,
)

Method = Callable[[Tensor, Tensor], Tensor]
PLAIN: dict[str, Method] = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "xgrad_cam": xgrad_cam,
    "layer_cam": layer_cam,
}
METHODS: dict[str, Method] = PLAIN | {
    f"lt_{name}": lambda activations, gradients, method=method: method(activations, truncate(gradients, 40))
    for name, method in PLAIN.items()
}
PAIRS = torch.tensor([[2, 1], [0, 4], [2, 0], [1, 3], [2, 4]])
NETWORK_CALLS: dict[str, Callable[..., object]] = {
    "record": partial(record, layers=["0", "3"]),
    "full_gradients": full_gradients,
    "full_grad": full_grad,
    "lt_full_grad": partial(full_grad, truncation=20),
    "smooth_grad_cam_plus_plus": partial(smooth_grad_cam_plus_plus, layer="3", noises=torch.zeros(2, 3, 3, 8, 8)),
    "score_cam": partial(score_cam, layer="3"),
    "ss_cam": partial(ss_cam, layer="3", samples=2),
    "is_cam": partial(is_cam, layer="3", samples=2),
    "ablation_cam": partial(ablation_cam, layer="3"),
}


def sample(seed: int) -> tuple[Tensor, Tensor]:
    """Activations behind a ReLU, and gradients of both signs that no epsilon outweighs."""
    torch.manual_seed(seed)
    activations, gradients = torch.randn(2, 3, 4, 4).relu(), torch.randn(2, 3, 4, 4)
    return activations.double(), (gradients + gradients.sign()).double()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestMaps:
    @given(seed=st.integers(0, 2**31), factor=st.floats(0.2, 5))
    @settings(max_examples=10, deadline=None)
    def test_unit_of_the_layer_does_not_matter(self, method: Method, seed: int, factor: float) -> None:
        # A layer scaled by a factor, and what reads it by its inverse, are the same network.
        activations, gradients = sample(seed)
        found = method(factor * activations, gradients / factor)
        torch.testing.assert_close(found, method(activations, gradients), rtol=1e-4, atol=1e-6)

    @given(seed=st.integers(0, 2**31))
    @settings(max_examples=10, deadline=None)
    def test_order_of_pairs_and_channels(self, method: Method, seed: int) -> None:
        activations, gradients = sample(seed)
        rows, channels = torch.randperm(2), torch.randperm(3)
        found = method(activations[rows][:, channels], gradients[rows][:, channels])
        torch.testing.assert_close(found, method(activations, gradients)[rows])

    @given(seed=st.integers(0, 2**31), value=st.floats(0.1, 100))
    @settings(max_examples=5, deadline=None)
    def test_flat_layer_gives_no_map(self, method: Method, seed: int, value: float) -> None:
        torch.manual_seed(seed)
        flat = torch.full((2, 3, 4, 4), value)
        gradients = torch.randn(2, 3, 1, 1).expand(2, 3, 4, 4)
        for mode in ("sum", "mean_norm", "max_tanh"):
            assert not min_max(fuse([method(flat, gradients)], (9, 7), mode)).any()

    def test_zero_gradients_give_zeros(self, method: Method) -> None:
        assert not method(torch.rand(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)).any()

    @given(
        seed=st.integers(0, 2**31),
        pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=6),
    )
    @settings(max_examples=5, deadline=None)
    def test_batch_equals_images_one_by_one(self, method: Method, seed: int, pairs: list[tuple[int, int]]) -> None:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5))
        images = torch.rand(3, 3, 8, 8)
        together = record(model, images, torch.tensor(pairs), ["1", "2"], allow_zero_gradients=True)
        for layer in ("1", "2"):
            maps = method(*together.paired(layer))
            for place, (row, class_) in enumerate(pairs):
                only = torch.tensor([[0, class_]])
                alone = record(model, images[row : row + 1], only, [layer], allow_zero_gradients=True)
                torch.testing.assert_close(maps[place], method(*alone.paired(layer))[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["grad_cam", "xgrad_cam", "layer_cam", "lt_grad_cam", "lt_xgrad_cam", "lt_layer_cam"])
@given(seed=st.integers(0, 2**31), factor=st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_maps_scale_with_gradients(name: str, seed: int, factor: float) -> None:
    activations, gradients = sample(seed)
    torch.testing.assert_close(
        METHODS[name](activations, factor * gradients), factor * METHODS[name](activations, gradients)
    )


class Stumbling(nn.Sequential):
    """Fails at its end, after all hooks have run, in the given call."""

    def __init__(self, layers: nn.Module, call: int) -> None:
        super().__init__(*layers)
        self.left = call

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        self.left -= 1
        if self.left == 0:
            raise ConnectionError
        return logits


@pytest.mark.parametrize("call", NETWORK_CALLS.values(), ids=NETWORK_CALLS)
class TestNetworkCalls:
    @staticmethod
    def untouched(model: nn.Module) -> bool:
        hooks = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        parameters = all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        return not hooks and parameters and all(module.training for module in model.modules())

    def test_leaves_nothing_behind(self, call: Callable[..., object], small_net: nn.Module) -> None:
        images = torch.rand(3, 3, 8, 8, requires_grad=True)
        call(small_net.train(), images, PAIRS)
        assert self.untouched(small_net)
        assert images.grad is None
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("fails_at", [1, 2, 3])
    def test_leaves_nothing_behind_when_the_network_fails(
        self, call: Callable[..., object], fails_at: int, small_net: nn.Module
    ) -> None:
        model = Stumbling(small_net, fails_at).train()
        try:
            call(model, torch.rand(3, 3, 8, 8), PAIRS)
        except ConnectionError:
            assert model.left == 0
        else:
            assert model.left > 0  # The method needs fewer calls.
        assert self.untouched(model)
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["grad_cam", "layer_cam"])
def test_map_of_a_flat_image_is_zero(name: str) -> None:
    # Every pixel looks the same: no pixel may become a seed.
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    found = record(model, torch.ones(1, 3, 6, 6), torch.tensor([[0, 1]]), ["1"])
    assert not min_max(fuse([METHODS[name](*found.paired("1"))], (12, 12))).any()
