"""What number formats do to masks, on a network that was trained and on real photographs."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from configs.normalise import Normalise
from configs.proposals import GradientProposal, Proposal
from configs.schema import Runtime
from methods.activation import enlarge, min_max
from methods.networks import ClassifierNetwork, build_classifier, load_backbone, pooled_features
from methods.refinement import otsu_masks
from storage.weights import load_state
from tasks.images import probe_images, to_input
from tasks.maps import MapMaker
from tasks.network import as_computed, inference_network

SIDE, CLASSES = 224, ("airplane", "horse")
CAFFE = Normalise(channels="bgr", scale=1.0, mean=[104.0, 117.0, 123.0], std=[1.0, 1.0, 1.0])
PROPOSALS: list[Proposal] = [
    GradientProposal(method="grad_cam"),
    GradientProposal(method="layer_cam"),
    GradientProposal(method="grad_cam", layers=["S3", "S4", "S5"], truncation=20),
]


@dataclass(frozen=True)
class Trained:
    """A classifier that was trained, and images it has not seen with their truth."""

    network: ClassifierNetwork
    images: Tensor
    pairs: Tensor
    truth: Tensor

    def masks(self, runtime: Runtime) -> list[Tensor]:
        """Otsu masks ``[P, 224, 224]`` of every proposal."""
        made = MapMaker(inference_network(self.network, runtime, probe_images(SIDE, torch.device("cpu"))))
        maps = made(as_computed(self.images, runtime), self.pairs, PROPOSALS)[1]
        return [otsu_masks(min_max(enlarge(min_max(one), (SIDE, SIDE)))) for one in maps]


def _read(root: Path, names: list[str]) -> Tensor:
    pictures = [Image.open(root / "JPEGImages" / f"{name}.jpg").convert("RGB").resize((SIDE, SIDE)) for name in names]
    pixels = torch.stack([torch.frombuffer(bytearray(one.tobytes()), dtype=torch.uint8) for one in pictures])
    return to_input(pixels.view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2), CAFFE, torch.device("cpu"))


def _truth(root: Path, name: str) -> Tensor:
    mask = Image.open(root / "SegmentationClass" / f"{name}.png").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    return torch.frombuffer(bytearray(mask.tobytes()), dtype=torch.uint8).view(SIDE, SIDE)


@pytest.fixture(scope="module")
def trained(shared: Path) -> Trained:
    """A frozen ImageNet SqueezeNet with a head trained on 80 photographs; 40 others."""
    root, weights = shared / "data" / "natural_voc", shared / "weights" / "squeezenet1_1_imagenet_fp16.safetensors"
    if not weights.exists():
        pytest.skip(f"no weights at {weights}")
    table = pd.read_csv(root / "splits.csv")
    chosen = {
        (split, name): table[(table["split"] == split) & (table["class"] == name) & (table["has_mask"] == 1)]["id"]
        for split in ("train", "val")
        for name in CLASSES
    }
    torch.manual_seed(0)
    network = build_classifier("squeezenet1_1", len(CLASSES))
    load_backbone(network, load_state(weights), weights.name)
    network.model.eval().requires_grad_(False)
    names = [name for k in CLASSES for name in chosen["train", k][:40]]
    features, targets = pooled_features(network, _read(root, names)), torch.arange(len(names)) // 40
    head = network.model.get_submodule(network.head)
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    head.requires_grad_(True)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(features), targets).backward()
        optimiser.step()
    head.requires_grad_(False)
    tests = [name for k in CLASSES for name in chosen["val", k][:20]]
    pairs = torch.tensor([[place, place // 20] for place in range(len(tests))])
    return Trained(network, _read(root, tests), pairs, torch.stack([_truth(root, name) for name in tests]))


def _iou(one: Tensor, other: Tensor) -> Tensor:
    return (one & other).sum((1, 2)) / (one | other).sum((1, 2)).clamp(min=1)


@pytest.mark.slow
class TestPrecision:
    @pytest.mark.parametrize(
        ("runtime", "agreement"),
        [
            (Runtime(precision="bfloat16"), 0.97),
            (Runtime(channels_last=True), 0.999),
            (Runtime(channels_last=False, fold_batch_norm=True), 0.999),
        ],
        ids=["bfloat16", "channels_last", "folded"],
    )
    def test_masks_stay(self, trained: Trained, runtime: Runtime, agreement: float) -> None:
        """Masks agree with those of float32, and are as good."""
        judged = trained.truth != 255
        truth = (trained.truth > 0) & judged
        for one, before, after in zip(PROPOSALS, trained.masks(Runtime(channels_last=False)), trained.masks(runtime)):
            assert float(_iou(before, after).mean()) >= agreement, one.title
            pooled = [float((m & truth).sum() / ((m & judged) | truth).sum()) for m in (before, after)]
            assert pooled[0] > 0.25, "the fixture's network finds nothing"
            assert abs(pooled[1] - pooled[0]) <= 0.002, one.title
