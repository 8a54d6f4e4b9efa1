import pytest
import torch
from torch import nn

from methods.activation import LayerCallError, PairError, RecordingError, record
from methods.activation.observe import observe

PAIRS = torch.tensor([[1, 1], [0, 4]])


class TestObserve:
    def test_smoke(self, small_net: nn.Module) -> None:
        maps, logits = observe(small_net, torch.rand(2, 3, 8, 8), PAIRS, ["4", "0"])
        assert {name: value.shape for name, value in maps.items()} == {"4": (2, 6, 4, 4), "0": (2, 4, 8, 8)}
        assert logits.shape == (2, 5)

    @pytest.mark.parametrize("inference", [False, True])
    def test_sees_what_record_sees(self, small_net: nn.Module, inference: bool) -> None:
        with torch.inference_mode(inference):
            images = torch.ones(2, 3, 8, 8)
            maps, logits = observe(small_net.train(), images, PAIRS, ["0", "2"])
        expected = record(small_net, torch.ones(2, 3, 8, 8), PAIRS, ["0", "2"], allow_zero_gradients=True)
        assert torch.equal(logits, expected.logits)
        assert all(torch.equal(maps[name], expected.activations[name]) for name in maps)
        assert all(parameter.requires_grad for parameter in small_net.parameters())

    def test_refusals(self, small_net: nn.Module) -> None:
        with pytest.raises(PairError):
            observe(small_net, torch.rand(1, 3, 8, 8), PAIRS, ["0"])
        with pytest.raises(RecordingError):
            observe(small_net, torch.rand(2, 3, 8, 8), PAIRS, [])
        with pytest.raises(LayerCallError):
            observe(nn.Sequential(nn.Flatten(), _WithSpare()), torch.rand(2, 3, 2, 2), PAIRS, ["1.spare"])


class _WithSpare(nn.Linear):
    def __init__(self) -> None:
        super().__init__(12, 5)
        self.spare = nn.Identity()
