"""The golden networks, rebuilt from their stored weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods.activation import Record, record

STAGES = {f"S{stage}": f"features.{3 * stage - 1}" for stage in range(1, 6)}


class StageNet(nn.Module):
    """Five times convolution, ReLU, pool; then a mean over space or a flattening, and a linear layer."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(0, 15, 3):
            out_channels, in_channels = state[f"features.{index}.weight"].shape[:2]
            layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        classes, inputs = state["fc.weight"].shape
        self.pooled = inputs == layers[-3].out_channels
        self.fc = nn.Linear(inputs, classes)
        self.load_state_dict(state)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        return self.fc(maps.mean((2, 3)) if self.pooled else maps.flatten(1))


@dataclass
class CamCase:
    """One golden case of the CAM family: its arrays as tensors, its network, and one recording of all five stages."""

    arrays: dict[str, Tensor]
    meta: dict[str, Any]
    model: StageNet
    images: Tensor
    pairs: Tensor
    recorded: Record

    def at(self, stage: str) -> tuple[Tensor, Tensor]:
        return self.recorded.paired(STAGES[stage])


@pytest.fixture(scope="session", params=["cam_gap", "cam_flat"])
def cam_case(request: pytest.FixtureRequest, golden: Callable[[str], dict[str, Any]]) -> CamCase:
    case = golden(request.param)
    meta = case.pop("_meta")
    arrays = {name: torch.from_numpy(np.asarray(array)) for name, array in case.items()}
    model = StageNet({name[2:]: array for name, array in arrays.items() if name.startswith("w.")})
    classes = torch.tensor(meta["target_classes"])
    pairs = torch.stack([torch.arange(len(classes)), classes], dim=1)
    recorded = record(model, arrays["x"], pairs, list(STAGES.values()))
    return CamCase(arrays, meta, model, arrays["x"], pairs, recorded)


@pytest.fixture(scope="session")
def close() -> Callable[[Tensor, Tensor, float], None]:
    """Assert that a tensor is within a share of the expected one's largest magnitude, at equal shapes."""

    def check(found: Tensor, expected: Tensor, relative: float) -> None:
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= relative * expected.abs().max()

    return check


@pytest.fixture
def small_net() -> nn.Module:
    """A network of plain modules with every kind of state that a recording could leave changed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
