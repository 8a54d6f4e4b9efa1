import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.activation import (
    GradientReachError,
    LayerCallError,
    LayerOutputError,
    LogitsError,
    OverwrittenLayerError,
    PairError,
    RecordingError,
    UnknownLayerError,
    record,
)

PAIRS = torch.tensor([[2, 1], [0, 4], [2, 0], [1, 3], [2, 4]])


def reference(model: nn.Sequential, images: Tensor, row: int, class_: int, layer: int) -> tuple[Tensor, Tensor]:
    """Activation and gradient of one pair from a network cut in two, one image at a time, nothing in place."""
    model.eval()
    with torch.no_grad():
        activation = images[row : row + 1]
        for module in model[: layer + 1]:
            activation = module(activation.clone())
    leaf = activation.clone().requires_grad_()
    value = leaf.clone()
    for module in model[layer + 1 :]:
        value = module(value.clone())
    (gradient,) = torch.autograd.grad(value[0, class_], leaf)
    return activation[0], gradient[0]


class TestRecord:
    def test_smoke(self, small_net: nn.Module) -> None:
        images = torch.rand(3, 3, 8, 8)
        found = record(small_net, images, PAIRS, ["4", "0"])
        assert list(found.activations) == ["4", "0"]
        assert found.activations["4"].shape == (3, 6, 4, 4)
        assert found.gradients["4"].shape == (5, 6, 4, 4)
        assert found.gradients["0"].shape == (5, 4, 8, 8)
        assert torch.equal(found.pairs, PAIRS)
        assert torch.equal(found.logits, small_net.eval()(images))
        assert not any(value.requires_grad for value in [found.logits, *found.activations.values()])

    @pytest.mark.parametrize("case", ["logits", *(f"{k}_S{s}" for k in ("act", "grad") for s in (3, 4, 5))])
    def test_golden(self, cam_case, close: Callable[..., None], case: str) -> None:
        kind, _, stage = case.partition("_")
        values = (cam_case.recorded.logits,) * 2 if kind == "logits" else cam_case.at(stage)
        close(values[kind == "grad"], cam_case.arrays[case], 1e-5)

    @pytest.mark.parametrize("stage", ["S1", "S2"])
    def test_golden_channel_means(self, cam_case, close: Callable[..., None], stage: str) -> None:
        activations, gradients = cam_case.at(stage)
        close(activations.mean((2, 3)), cam_case.arrays[f"act_{stage}_channel_mean"], 1e-5)
        close(gradients.mean((2, 3)), cam_case.arrays[f"grad_{stage}_channel_mean"], 1e-5)

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=7), st.integers(0, 9))
    @settings(max_examples=10, deadline=None)
    def test_every_pair_equals_its_own_pass(self, pairs: list[tuple[int, int]], seed: int) -> None:
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(48, 5)
        )
        images = torch.rand(3, 3, 8, 8)
        found = record(model, images, torch.tensor(pairs), ["1", "2", "0", "3"])
        for place, (row, class_) in enumerate(pairs):
            for layer in range(4):
                activation, gradient = reference(model, images, row, class_, layer)
                torch.testing.assert_close(found.activations[str(layer)][row], activation)
                torch.testing.assert_close(found.gradients[str(layer)][place], gradient)

    def test_calls_the_network_once_and_one_backward_per_rank(self, small_net: nn.Module) -> None:
        forward, backward = [], []

        def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            forward.append(1)
            output.register_hook(backward.append)

        handle = small_net.register_forward_hook(count)
        record(small_net, torch.rand(3, 3, 8, 8), PAIRS, ["0", "3"])
        handle.remove()
        assert len(forward) == 1
        assert len(backward) == 3

    def test_leaves_the_network_as_it_was(self, small_net: nn.Module) -> None:
        small_net.train()
        small_net[1].eval()
        small_net[4].weight.requires_grad_(False)
        before = {name: value.clone() for name, value in small_net.state_dict().items()}
        for layers in (["0"], ["8"], ["nowhere"]):
            try:
                record(small_net, torch.rand(3, 3, 8, 8), PAIRS, layers)
            except RecordingError:
                assert layers != ["0"]
        assert [module.training for module in small_net] == [True, False] + [True] * 8
        assert [name for name, p in small_net.named_parameters() if not p.requires_grad] == ["4.weight"]
        assert all(p.grad is None for p in small_net.parameters())
        assert not any(module._forward_hooks for module in small_net.modules())
        assert all(torch.equal(value, before[name]) for name, value in small_net.state_dict().items())

    def test_hooks_go_when_the_network_fails(self, small_net: nn.Module) -> None:
        with pytest.raises(RuntimeError, match="channels"):
            record(small_net.train(), torch.rand(1, 2, 8, 8), torch.tensor([[0, 0]]), ["0", "4"])
        assert small_net.training
        assert not any(module._forward_hooks for module in small_net.modules())

    def test_in_place_module_after_the_layer(self) -> None:
        torch.manual_seed(1)
        images, pairs = torch.randn(2, 3, 6, 6), torch.tensor([[0, 0], [1, 1]])
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
        plain = record(model, images, pairs, ["0"])
        model[1].inplace = True
        found = record(model, images, pairs, ["0"])
        assert (plain.activations["0"] < 0).any()
        assert torch.equal(found.activations["0"], plain.activations["0"])
        assert torch.equal(found.gradients["0"], plain.gradients["0"])

    def test_in_place_module_is_the_layer(self, small_net: nn.Module) -> None:
        found = record(small_net, torch.randn(2, 3, 8, 8), torch.tensor([[0, 0], [1, 1]]), ["1", "2", "3"])
        assert torch.equal(found.activations["2"], found.activations["1"].clamp(min=0))
        gated = found.gradients["2"] * (found.activations["1"] > 0)
        torch.testing.assert_close(found.gradients["1"], gated)

    def test_no_graph_before_the_first_layer(self, small_net: nn.Module) -> None:
        graphs = {}
        handles = [
            module.register_forward_hook(lambda _m, _i, out, name=name: graphs.update({name: out.requires_grad}))
            for name, module in small_net.named_children()
        ]
        record(small_net, torch.rand(1, 3, 8, 8, requires_grad=True), torch.tensor([[0, 0]]), ["4"])
        assert graphs == {str(index): index > 4 for index in range(10)}
        assert [handle.remove() for handle in handles]

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_works_without_grad_mode(self, small_net: nn.Module, mode: Callable[[], torch.no_grad]) -> None:
        expected = record(small_net, torch.ones(1, 3, 8, 8), torch.tensor([[0, 1]]), ["4"])
        with mode():
            found = record(small_net, torch.ones(1, 3, 8, 8), torch.tensor([[0, 1]]), ["4"])
        assert torch.equal(found.gradients["4"], expected.gradients["4"])

    def test_channels_last_and_float64(self, small_net: nn.Module) -> None:
        images = torch.rand(3, 3, 8, 8)
        plain = record(small_net, images, PAIRS, ["0", "4"])
        last = record(
            small_net.to(memory_format=torch.channels_last),
            images.to(memory_format=torch.channels_last),
            PAIRS,
            ["0", "4"],
        )
        double = record(small_net.double(), images.double(), PAIRS, ["0", "4"])
        for layer in ("0", "4"):
            torch.testing.assert_close(last.gradients[layer], plain.gradients[layer])
            torch.testing.assert_close(double.gradients[layer].float(), plain.gradients[layer])
            assert double.activations[layer].dtype == torch.float64

    def test_half_precision(self, small_net: nn.Module) -> None:
        images = torch.rand(3, 3, 8, 8)
        plain = record(small_net, images, PAIRS, ["4"])
        half = record(small_net.bfloat16(), images.bfloat16(), PAIRS, ["4"])
        assert half.gradients["4"].dtype == torch.bfloat16
        both = torch.stack([half.gradients["4"].float().ravel(), plain.gradients["4"].ravel()])
        assert torch.corrcoef(both)[0, 1] > 0.99

    def test_no_pairs(self, small_net: nn.Module) -> None:
        found = record(small_net, torch.rand(2, 3, 8, 8), torch.empty(0, 2, dtype=torch.int64), ["0"])
        assert found.gradients["0"].shape == (0, 4, 8, 8)
        assert found.paired("0")[0].shape == (0, 4, 8, 8)

    def test_paired_follows_the_pairs(self, small_net: nn.Module) -> None:
        found = record(small_net, torch.rand(3, 3, 8, 8), PAIRS, ["0"])
        assert torch.equal(found.paired("0")[0], found.activations["0"][PAIRS[:, 0]])
        assert found.paired("0")[1] is found.gradients["0"]

    def test_two_threads_on_one_network(self, small_net: nn.Module) -> None:
        torch.manual_seed(3)
        small_net.train()
        batches = [torch.rand(2, 3, 8, 8) for _ in range(20)]
        pairs = torch.tensor([[0, 1], [1, 2]])
        expected = [record(small_net, batch, pairs, ["1", "4"]) for batch in batches]
        wrong, start = [], threading.Barrier(2)

        def work() -> None:
            start.wait()
            for turn in range(100):
                index = turn % len(batches)
                found = record(small_net, batches[index], pairs, ["1", "4"])
                for layer in ("1", "4"):
                    if not (
                        torch.equal(found.activations[layer], expected[index].activations[layer])
                        and torch.equal(found.gradients[layer], expected[index].gradients[layer])
                    ):
                        wrong.append(turn)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert all(module.training for module in small_net.modules())
        assert all(parameter.requires_grad for parameter in small_net.parameters())
        assert not any(module._forward_hooks for module in small_net.modules())


class TokenNet(nn.Module):
    """Reads the class only from one place of its last block, as a transformer does from its class token."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv2d(3, 4, 1)
        self.patches = nn.Identity()
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.block(images)
        return self.head(maps[:, :, 0, 0] + 0 * self.patches(maps).mean((2, 3)))


class OddNet(nn.Module):
    """A network that does what the case asks for."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.case = case
        self.conv = nn.Conv2d(3, 4, 1)
        self.unused = nn.Conv2d(3, 4, 1)
        self.same = nn.Identity()
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> object:
        maps = self.conv(images)
        if self.case == "twice":
            maps = self.conv(maps[:, :3])
        if self.case == "detached":
            maps = maps.detach()
        if self.case == "loose":
            self.unused(images)
        if self.case == "rewritten":
            images.mul_(2)
        self.same(images)
        logits = self.head(maps.mean((2, 3)))
        return {"tuple": (logits, maps), "maps": maps}.get(self.case, logits)


class TestRefusals:
    pairs = torch.tensor([[0, 0], [1, 1]])
    images = torch.ones(2, 3, 4, 4)

    def test_unknown_layer(self, small_net: nn.Module) -> None:
        with pytest.raises(UnknownLayerError, match=r"no layer \['11'\].*did you mean.*0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"):
            record(small_net, self.images, self.pairs, ["0", "11"])
        with pytest.raises(UnknownLayerError, match=r"at least one layer name, got \[\]"):
            record(small_net, self.images, self.pairs, [])
        with pytest.raises(UnknownLayerError, match="got '0'"):
            record(small_net, self.images, self.pairs, "0")

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            ([[0, 0], [2, 1]], r"pair 1 is \(2, 1\): its image row is outside of 0\.\.1"),
            ([[-1, 0]], "image row is outside"),
            ([[0, 5]], r"pair 0 is \(0, 5\): its class is outside of 0\.\.4"),
            ([[0, -1]], "class is outside"),
            ([0, 1], r"expected pairs \[P, 2\].*\(2,\)"),
            ([[0.0, 1.0]], "expected integer pairs, got torch.float32"),
            ([[False, True]], "expected integer pairs, got torch.bool"),
        ],
    )
    def test_pairs(self, small_net: nn.Module, pairs: list, message: str) -> None:
        with pytest.raises(PairError, match=message):
            record(small_net, torch.rand(2, 3, 8, 8), torch.tensor(pairs), ["0"])

    @pytest.mark.parametrize(
        ("case", "layer", "error", "message"),
        [
            ("twice", "conv", LayerCallError, "'conv' is called more than once"),
            ("plain", "unused", LayerCallError, r"does not reach layer\(s\) \['unused'\]"),
            ("plain", "head", LayerOutputError, r"'head' returns shape \(2, 2\), expected maps"),
            ("plain", "", LayerOutputError, "expected maps"),
            ("tuple", "", LayerOutputError, "returns tuple, expected one tensor"),
            ("tuple", "conv", LogitsError, "the network returns tuple"),
            ("maps", "conv", LogitsError, r"shape \(2, 4, 4, 4\), expected logits \[B, K\] with B=2"),
            ("loose", "unused", GradientReachError, r"have no graph back to \['unused'\]"),
            ("detached", "conv", GradientReachError, "detaches its features"),
        ],
    )
    def test_network(self, case: str, layer: str, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            record(OddNet(case), self.images, self.pairs, [layer])

    def test_layer_beside_the_path(self) -> None:
        with pytest.raises(GradientReachError, match=r"do not depend on layer\(s\) \['unused'\]"):
            record(OddNet("loose"), self.images, self.pairs, ["unused", "conv"])

    def test_memory_shared_with_the_input_is_kept_apart(self) -> None:
        found = record(ScaledInput(), self.images, self.pairs, ["same"])
        assert torch.equal(found.activations["same"], torch.ones(2, 3, 4, 4))

    def test_overwritten_by_a_later_hook(self) -> None:
        model = OddNet("plain")
        kept: list[Tensor] = []
        model.conv.register_forward_hook(lambda _m, _i, out: kept.append(out))
        model.head.register_forward_pre_hook(lambda _m, _i: kept[0].zero_() is None or None)
        with pytest.raises(OverwrittenLayerError, match="'conv' was overwritten in place"):
            record(model, self.images, self.pairs, ["conv"])

    def test_zero_gradients(self) -> None:
        with pytest.raises(GradientReachError, match=r"every gradient of layer\(s\) \['patches'\] is zero"):
            record(TokenNet(), self.images, self.pairs, ["block", "patches"])
        found = record(TokenNet(), self.images, self.pairs, ["patches"], allow_zero_gradients=True)
        assert not found.gradients["patches"].any()

    def test_images_without_batch(self, small_net: nn.Module) -> None:
        with pytest.raises(RecordingError, match=r"expected images \[B, 3, H, W\], got shape \(3, 8, 8\)"):
            record(small_net, torch.rand(3, 8, 8), self.pairs, ["0"])


class ScaledInput(nn.Module):
    """Changes a tensor in place after a module that handed it on."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        copy = images.clone()
        maps = self.same(copy)
        copy.mul_(7)
        return self.head(maps.mean((2, 3)))
