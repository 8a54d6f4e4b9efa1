import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from methods.activation import ablation_cam
from methods.activation.ablation_cam import relative_losses
from methods.activation.from_layer import Route, find_route
from methods.activation.frozen import frozen
from methods.activation.taps import replaced


class Residual(nn.Module):
    """A block whose sum takes what came before it, on one side or the other, in place or not."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.LazyLinear(4)
        self.join = join

    def forward(self, images: Tensor) -> Tensor:
        before = self.first(images).relu()
        after = self.outer(self.inner(before).relu())
        return self.head(self.join(after, before).relu().mean((2, 3)))


class Batched(nn.Module):
    """A head that trusts the number of images to be what it was before the layer."""

    def __init__(self, head: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.inner(images).relu(), len(images))


def _spread_mean(maps: Tensor, count: int) -> Tensor:
    """Right for as many maps as images, a mean over all versions of one image, in the shape of all of them."""
    return maps.view(count, -1, *maps.shape[1:]).mean((1, 3, 4)).expand(len(maps), -1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {
    "sequential": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(4)),
        "0",
        True,
    ),
    "residual": (lambda: Residual(lambda after, before: after + before), "inner", True),
    "residual, in place": (lambda: Residual(lambda after, before: after.add_(before)), "inner", True),
    "gate": (
        lambda: Residual(lambda after, before: before * after.mean((2, 3), keepdim=True).sigmoid()),
        "inner",
        True,
    ),
    "residual, in place of the shortcut": (lambda: Residual(lambda after, before: before.add_(after)), "inner", False),
    "concatenation": (lambda: Residual(lambda after, before: torch.cat([after, before], 1)), "inner", False),
    "view by the number of images": (lambda: Batched(lambda maps, n: 1 + maps.view(n, -1)), "inner", False),
    "mean over what should be images": (lambda: Batched(_spread_mean), "inner", False),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, str, bool]:
    torch.manual_seed(0)
    build, layer, shared = NETWORKS[request.param]
    model = build().eval()
    with torch.no_grad():
        model(torch.rand(2, 3, 8, 8))  # Lazy layers take their size.
    return model, layer, shared


def losses_of_whole_passes(model: nn.Module, image: Tensor, layer: str, channels: int) -> Tensor:
    """The definition: one pass of the whole network per channel."""

    def without(channel: int) -> Tensor:
        def change(output: Tensor) -> Tensor:
            output = output.clone()
            output[:, channel] = 0
            return output

        with replaced(model, layer, change):
            return model(image[None])[0]

    logits = model(image[None])[0]
    return torch.stack([(logits - without(channel)) / logits for channel in range(channels)])


class TestFindRoute:
    def test_shares_where_the_network_allows_it(
        self, case: tuple[nn.Module, str, bool], caplog: pytest.LogCaptureFixture
    ) -> None:
        model, layer, shared = case
        with torch.no_grad(), caplog.at_level(logging.INFO):
            route = find_route(model, torch.rand(3, 8, 8), layer, 4)
        assert route.shared == shared
        assert ("runs for every version" in caplog.text) != shared
        assert route.rows >= 4 if shared else route.rows == 4

    @pytest.mark.parametrize("batch", [2, 5])
    def test_losses_are_those_of_whole_passes(self, case: tuple[nn.Module, str, bool], batch: int) -> None:
        model, layer, _shared = case
        image = torch.rand(3, 8, 8)
        channels = model.get_submodule(layer).out_channels
        with torch.no_grad(), frozen(model):
            logits = model(image[None])[0]
            found = relative_losses(model, image, layer, torch.arange(channels), logits, batch)
            expected = losses_of_whole_passes(model, image, layer, channels)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_every_image_of_a_batch(self, case: tuple[nn.Module, str, bool]) -> None:
        model, layer, _shared = case
        images = torch.rand(3, 3, 8, 8)
        maps = ablation_cam(model, images, torch.tensor([[2, 1], [0, 3]]), layer, rectify=False)
        for found, (row, class_) in zip(maps, [(2, 1), (0, 3)], strict=True):
            alone = ablation_cam(model, images[row : row + 1], torch.tensor([[0, class_]]), layer, rectify=False)
            torch.testing.assert_close(found, alone[0], rtol=1e-4, atol=1e-5)

    def test_rows_by_memory(self) -> None:
        # The convolution's output holds 512 numbers, the pool's 32: 16 rows behind the pool are one in front of it.
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 2)).eval()
        with torch.no_grad():
            assert find_route(model, torch.rand(3, 10, 10), "1", 3).rows == 48
            assert find_route(model, torch.rand(3, 10, 10), "0", 3).rows == 3

    def test_not_a_number_is_no_difference(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2, 2)).eval()
        with torch.no_grad():
            assert find_route(model, torch.full((3, 1, 1), torch.nan), "0", 2).shared

    def test_leaves_no_hooks(self, case: tuple[nn.Module, str, bool]) -> None:
        model, layer, _shared = case
        with torch.no_grad():
            find_route(model, torch.rand(3, 8, 8), layer, 2)
        assert not any(module._forward_hooks for module in model.modules())

    def test_out_of_memory_is_no_reason_to_run_everything(self) -> None:
        def head(maps: Tensor, _count: int) -> Tensor:
            if len(maps) > 1:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return maps.mean((2, 3))

        with torch.no_grad(), pytest.raises(RuntimeError, match="can't allocate memory"):
            find_route(Batched(head).eval(), torch.rand(3, 8, 8), "inner", 2)


class TestRoute:
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
    def test_memory_format_of_the_image(self, shared: bool, layout: torch.memory_format) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
        model = model.to(memory_format=layout)
        image = torch.rand(2, 3, 8, 8).to(memory_format=layout)[1]
        seen: list[Tensor] = []
        model[1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            found = Route(model, "0", shared, 8)(image, 5, lambda output: output)
        assert found.shape == (5, 2)
        assert seen[0].shape == (5, 4, 6, 6)
        assert seen[0].is_contiguous(memory_format=layout)

    def test_change_writes_into_a_copy(self) -> None:
        model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(12, 2)).eval()
        image = torch.ones(3, 2, 2)
        with torch.no_grad():
            Route(model, "0", True, 8)(image, 3, torch.zero_)
            Route(model, "0", False, 8)(image, 3, torch.zero_)
        assert (image == 1).all()
