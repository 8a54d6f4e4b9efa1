"""The golden networks, rebuilt from their stored weights."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
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


class ResidualNet(nn.Module):
    """Net B of the full gradient case: batch normalisation, a residual sum, two linear layers."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(*_channels(state["c1.weight"]), 3, stride=2, padding=1, bias=False)
        self.b1 = nn.BatchNorm2d(len(state["b1.weight"]))
        self.c2 = nn.Conv2d(*_channels(state["c2.weight"]), 3, padding=1)
        self.b2 = nn.BatchNorm2d(len(state["b2.weight"]))
        self.c3 = nn.Conv2d(*_channels(state["c3.weight"]), 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(isqrt(state["f1.weight"].shape[1] // len(state["c3.weight"])))
        self.f1 = nn.Linear(*_channels(state["f1.weight"]))
        self.f2 = nn.Linear(*_channels(state["f2.weight"]))
        self.load_state_dict(state)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.b1(self.c1(images)).relu()
        maps = (self.b2(self.c2(maps)) + maps).relu()
        maps = self.c3(maps).relu()
        return self.f2(self.f1(self.pool(maps).flatten(1)).relu())


def _channels(weight: Tensor) -> tuple[int, int]:
    return weight.shape[1], weight.shape[0]


@dataclass
class FullGradCase:
    """One of the two networks of the full gradient case."""

    arrays: dict[str, Tensor]
    model: nn.Module
    pairs: Tensor


@pytest.fixture(scope="session")
def full_grad_case(golden: Callable[[str], dict[str, Any]]) -> Callable[[str], FullGradCase]:
    case = golden("fullgrad")

    def build(net: str) -> FullGradCase:
        arrays = {name[2:]: torch.from_numpy(np.asarray(case[name])) for name in case if name.startswith(f"{net}.")}
        state = {name[2:]: array for name, array in arrays.items() if name.startswith("w.")}
        model = StageNet(state) if net == "A" else ResidualNet(state)
        pairs = torch.stack([torch.arange(len(arrays["target"])), arrays["target"]], dim=1)
        return FullGradCase(arrays, model, pairs)

    return build
