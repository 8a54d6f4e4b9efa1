import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.training.poly import parameter_groups, poly_factor, poly_optimizer, poly_schedule

Golden = Callable[[str], dict[str, Any]]


class Part(nn.Module):
    """A weight and a bias."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)))


class TestParameterGroups:
    def test_smoke(self) -> None:
        groups = parameter_groups(_model(), ["2"], rate=0.1, decay=0.01)
        assert [len(group["params"]) for group in groups] == [2, 2, 2, 2]
        assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.2, 1.0, 2.0])
        assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.01, 0.0]

    @pytest.mark.parametrize("new", [[], [""], ["2.0"], ["0", "2"]])
    def test_every_parameter_is_in_one_group(self, new: list[str]) -> None:
        model = _model()
        found = [id(one) for group in parameter_groups(model, new, rate=1, decay=0) for one in group["params"]]
        assert sorted(found) == sorted(map(id, model.parameters()))

    def test_names_are_whole(self) -> None:
        model = nn.ModuleDict({"head": nn.Linear(2, 2), "header": nn.Linear(2, 2)})
        groups = parameter_groups(model, ["head"], rate=1, decay=0)
        assert groups[0]["params"] == [model["header"].weight]
        assert groups[2]["params"] == [model["head"].weight]

    def test_frozen_parameters_are_left_out(self) -> None:
        model = _model()
        model[0].requires_grad_(False)
        assert sum(len(group["params"]) for group in parameter_groups(model, [], rate=1, decay=0)) == 6

    def test_refuses_unknown_modules(self) -> None:
        with pytest.raises(ValueError, match="modules of Sequential, got 'head'"):
            parameter_groups(_model(), ["2", "head"], rate=1, decay=0)


class TestPoly:
    def test_smoke(self) -> None:
        model = _model()
        optimizer = poly_optimizer(model, ["2"])
        schedule = poly_schedule(optimizer, 10)
        loss = model(torch.rand(2, 3, 4, 4)).square().sum()
        for parameter, gradient in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters()))):
            parameter.grad = gradient
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.step()
        schedule.step()
        assert not all(torch.equal(one, other) for one, other in zip(before, model.parameters()))
        assert schedule.get_last_lr()[0] == pytest.approx(0.1 * 0.9**0.9)

    def test_golden(self, golden: Golden) -> None:
        case, about = golden("puzzle"), golden("puzzle")["_meta"]["poly"]
        start = torch.from_numpy(case["poly_init"])
        model = nn.ModuleDict({"old": Part(*start[:2]), "new": Part(*start[2:])})
        optimizer = poly_optimizer(model, ["new"], rate=about["base_lr"], decay=about["wd"], compat=True)
        schedule = poly_schedule(optimizer, about["max_step"], power=about["power"])
        groups = optimizer.param_groups
        effective = [[group["lr"], group["momentum"], group["weight_decay"]] for group in groups]
        assert effective == [pytest.approx(row) for row in case["poly_effective_lr_momentum_wd"].tolist()]
        assert {group["momentum"] for group in groups} == {about["actual_sgd_momentum"]}
        for gradients, rates, after in zip(
            case["poly_grads"], case["poly_lrs"], torch.from_numpy(case["poly_params"]), strict=True
        ):
            assert [group["lr"] for group in groups] == pytest.approx(rates.tolist(), rel=1e-9)
            for group, gradient in zip(groups, torch.from_numpy(gradients), strict=True):
                group["params"][0].grad = gradient
            optimizer.step()
            schedule.step()
            found = torch.stack([group["params"][0].detach() for group in groups])
            torch.testing.assert_close(found, after, rtol=0, atol=1e-6)

    def test_momentum_by_default(self) -> None:
        optimizer = poly_optimizer(_model(), [], decay=0.5)
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}

    def test_factor_falls_to_nothing(self) -> None:
        factors = [poly_factor(step, steps=7) for step in range(9)]
        assert factors[0] == 1
        assert factors[7:] == [0, 0]
        assert sorted(set(factors), reverse=True) == factors[:8]

    @pytest.mark.parametrize(("steps", "power"), [(0, 0.9), (5, 0), (5, -1), (5, math.nan)])
    def test_refuses_values_out_of_range(self, steps: int, power: float) -> None:
        with pytest.raises(ValueError, match=f"steps={steps}, power={power}"):
            poly_schedule(poly_optimizer(_model(), []), steps, power=power)

    def test_refuses_negative_rates(self) -> None:
        with pytest.raises(ValueError, match="learning rate"):
            poly_optimizer(_model(), [], rate=-1)
