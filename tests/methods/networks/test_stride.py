import pytest
import torch

from methods.networks import build_classifier
from methods.networks.encoder import Encoder
from methods.networks.stride import StrideError, keep_stride


class TestKeepStride:
    def test_smoke(self) -> None:
        network = build_classifier("resnet50", 3)
        state = {key: value.shape for key, value in network.model.state_dict().items()}
        assert keep_stride(network) == 4
        with torch.no_grad():
            features = Encoder(network)(torch.rand(1, 3, 64, 64))
            assert network.model(torch.rand(2, 3, 64, 64)).shape == (2, 3)
        assert [feature.shape[1] for feature in features] == [3, 64, 256, 512, 1024, 2048]
        assert [64 // feature.shape[2] for feature in features] == [1, 2, 4, 8, 8, 8]
        assert {key: value.shape for key, value in network.model.state_dict().items()} == state

    def test_one_stage(self) -> None:
        network = build_classifier("resnet18", 3)
        assert keep_stride(network, ["S5"]) == 2
        assert [feature.shape[3] for feature in Encoder(network)(torch.rand(1, 3, 32, 64))[-2:]] == [4, 4]

    @pytest.mark.parametrize(("backbone", "stages"), [("small", ["S5"]), ("resnet18", ["S5", "S2"]), ("small", ["S9"])])
    def test_refuses_stages_without_a_stride_and_changes_nothing(self, backbone: str, stages: list[str]) -> None:
        network = build_classifier(backbone, 3)
        before = [getattr(module, "stride", None) for module in network.model.modules()]
        with pytest.raises(StrideError, match=f"stages of {backbone}.*none in '{stages[-1]}'"):
            keep_stride(network, stages)
        assert [getattr(module, "stride", None) for module in network.model.modules()] == before

    def test_refuses_a_second_time(self) -> None:
        network = build_classifier("resnet18", 3)
        keep_stride(network)
        with pytest.raises(StrideError, match="none in 'S4'"):
            keep_stride(network)
