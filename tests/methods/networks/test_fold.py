import pytest
import torch
from torch import Tensor, nn

from methods.networks import FoldError, build_classifier, fold_batch_norms


def _settled(model: nn.Module) -> nn.Module:
    """Batch norms with statistics that are not those of a new one, as training leaves them."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


class _Twice(nn.Module):
    """A convolution whose output is used a second time, after its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return (made + self.norm(made)).mean((2, 3))


class TestFoldBatchNorms:
    @pytest.mark.parametrize(("backbone", "norms"), [("resnet18", 20), ("resnet50", 53), ("mobilenet_v2", 52)])
    def test_same_logits(self, backbone: str, norms: int) -> None:
        model = _settled(build_classifier(backbone, 3).model)
        images = torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            before = model(images)
            assert fold_batch_norms(model, images) == norms
            after = model(images)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))

    def test_keeps_names_and_recorded_layers(self) -> None:
        model = _settled(build_classifier("resnet18", 3).model)
        names = {name for name, _ in model.named_modules()}
        images = torch.rand(1, 3, 32, 32)
        assert fold_batch_norms(model, images, keep={"layer4.1.bn2", "conv1"}) == 18
        assert {name for name, _ in model.named_modules()} == names
        assert isinstance(model.get_submodule("bn1"), nn.BatchNorm2d)
        assert isinstance(model.get_submodule("layer4.1.bn2"), nn.BatchNorm2d)

    def test_nothing_to_fold(self) -> None:
        assert fold_batch_norms(build_classifier("squeezenet1_1", 2).model, torch.rand(1, 3, 64, 64)) == 0

    def test_refuses_training_mode(self) -> None:
        with pytest.raises(FoldError, match=r"model\.eval"):
            fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.rand(1, 3, 8, 8))

    def test_refuses_what_changes_the_logits(self) -> None:
        with pytest.raises(FoldError, match="moves the logits"):
            fold_batch_norms(_settled(_Twice()), torch.rand(1, 3, 8, 8))
