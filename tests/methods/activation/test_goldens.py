"""Every array of the three CAM goldens by name: how it is computed, and how far it may be off.

Arrays that hold a package's defect are computed from the defective formula, written out here, so that it is certain
what differs; ``TestDefects`` then tells them from ours.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from methods.activation import (
    ablation_cam,
    class_activation_map,
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
from methods.activation.ablation_cam import relative_losses
from methods.activation.frozen import frozen
from methods.activation.perturbation import channel_scores

LAYERS = {f"S{stage}": f"features.{3 * stage - 1}" for stage in range(1, 6)}
METHODS = {"GradCAM": grad_cam, "GradCAMpp": grad_cam_plus_plus, "XGradCAM": xgrad_cam, "LayerCAM": layer_cam}
WEIGHTED = "GradCAM|GradCAMpp|XGradCAM"


def size(case: Any) -> tuple[int, int]:
    return tuple(case.images.shape[2:])


def passed(case: Any, kind: str, stage: str) -> Tensor:
    return case.at(stage)[kind == "grad"]


def raw(case: Any, method: str, stage: str) -> Tensor:
    return METHODS[method](*case.at(stage), rectify=False)


def rectified(case: Any, _package: str, method: str) -> Tensor:
    return METHODS[method](*case.at("S5"))


def normalised(case: Any, method: str, stages: str) -> Tensor:
    return fuse([METHODS[method](*case.at(f"S{stage}")) for stage in stages], size(case), "mean_norm")


def largest(case: Any, method: str, stages: str) -> Tensor:
    return fuse([METHODS[method](*case.at(f"S{stage}")) for stage in stages], size(case), "max_tanh")


def weights(case: Any, method: str, stage: str) -> Tensor:
    """Weights read off the maps of one channel at a time, in float64."""
    activations, gradients = (values.double().flatten(0, 1)[:, None] for values in case.at(stage))
    if method == "XGradCAM":
        total = activations.sum((1, 2, 3))
        maps = xgrad_cam(activations, gradients, rectify=False)
        return (maps.sum((1, 2)) / torch.where(total == 0, 1, total)).view(len(case.pairs), -1)
    # These look at A only through its sum: move a unit from the last pixel to the first, and see the map rise there.
    moved = activations.clone()
    moved[..., 0, 0] += 1
    moved[..., -1, -1] -= 1
    risen = METHODS[method](moved, gradients, rectify=False) - METHODS[method](activations, gradients, rectify=False)
    return risen[:, 0, 0].view(len(case.pairs), -1)


def cam(case: Any) -> Tensor:
    return class_activation_map(case.at("S5")[0], case.model.fc.weight.detach()[case.pairs[:, 1]])


def perturbed(case: Any, method: str, stage: str) -> Tensor:
    found = {"ScoreCAM": score_cam, "AblationCAM": ablation_cam}[method](
        case.model, case.images, case.pairs, LAYERS[stage]
    )
    return fuse([found], size(case), "mean_norm")


def mask_weights(case: Any, stage: str) -> Tensor:
    features = case.at(stage)[0]
    rows, classes = case.pairs.unbind(1)
    channels = torch.arange(features.shape[1]).expand(len(rows), -1)
    with torch.no_grad(), frozen(case.model):
        scores = channel_scores(case.model, case.images, features, rows, channels, masks="enlarged_first", batch=16)
    return torch.stack([scores[:, place, class_].softmax(0) for place, class_ in enumerate(classes.tolist())])


def loss_weights(case: Any, stage: str) -> Tensor:
    found = []
    channels = torch.arange(case.at(stage)[0].shape[1])
    with torch.no_grad(), frozen(case.model):
        for row, class_ in case.pairs.tolist():
            logits = case.recorded.logits[row]
            losses = relative_losses(case.model, case.images[row], LAYERS[stage], channels, logits)
            found.append(losses[:, class_])
    return torch.stack(found)


def torchcam_score_cam(case: Any) -> Tensor:
    return score_cam(case.model, case.images, case.pairs, LAYERS["S5"], masks="normalised_first")


def torchcam_is_cam(case: Any) -> Tensor:
    return is_cam(case.model, case.images, case.pairs, LAYERS["S5"], samples=case.meta["iscam_samples"])


def torchcam_ss_cam(case: Any) -> Tensor:
    pairs = torch.tensor([[0, case.meta["target_classes"][0]]])
    layer, noises = LAYERS[case.meta["sscam"]["layer"]], case.arrays["sscam_noise"]
    return ss_cam(case.model, case.arrays["sscam_x"], pairs, layer, noises=noises)


def smooth(case: Any) -> Tensor:
    return smooth_grad_cam_plus_plus(case.model, case.images, case.pairs, LAYERS["S5"], case.arrays["smooth_noise"])


def threshold(case: Any, percentile: str, population: str) -> Tensor:
    """The interpolated percentile of what is positive, NaN where nothing is; and ours keeps what reaches it."""
    gradients = case.at("S5")[1].double()
    positive = gradients.where(gradients > 0, torch.nan)
    rows = positive.flatten(2) if population == "channel" else positive.flatten(1)[:, None]
    found = torch.full(rows.shape[:2], torch.nan, dtype=torch.float64)
    for place in np.ndindex(*found.shape):
        values = rows[place][~rows[place].isnan()].numpy()
        if len(values):
            found[place] = np.percentile(values, int(percentile))
    kept = truncate(gradients, int(percentile), population) > 0
    # A comparison with a NaN is false. The slack covers the rounding of the interpolation.
    assert torch.equal(kept, positive >= (found * (1 - 1e-9))[..., None, None])
    return found.expand(gradients.shape[:2])


def truncated(case: Any, percentile: str, population: str) -> Tensor:
    activations, gradients = case.at("S5")
    return grad_cam(activations, truncate(gradients, int(percentile), population), rectify=False)


def layered(case: Any, method: str, stages: str, negative: str, percentile: str, population: str) -> Tensor:
    maps = []
    for stage in "12345" if stages == "5" else stages:
        activations, gradients = case.at(f"S{stage}")
        gradients = truncate(gradients, int(percentile), (population or "_channel")[1:])
        maps.append(METHODS[method](activations, gradients, rectify=not negative))
    return min_max(fuse(maps, size(case)))


def undivided_grad_cam_plus_plus(case: Any, _package: str) -> Tensor:
    """The defect of two packages: the division by the denominator has no effect."""
    activations, gradients = case.at("S5")
    channel_weights = (gradients.square() * gradients.relu()).sum((2, 3), keepdim=True)
    return (channel_weights * activations).sum(1).relu()


def last_pass_smooth_grad_cam_plus_plus(case: Any) -> Tensor:
    """The defect of a package: gradient and map of the last noisy pass, in place of the mean and of the clean image."""
    clean, layer = case.at("S5")[0], LAYERS["S5"]
    passes = [
        record(case.model, case.images + noise, case.pairs, [layer]).paired(layer)
        for noise in case.arrays["smooth_noise"]
    ]
    square, cube = (torch.stack([gradients**power for _, gradients in passes]).mean(0) for power in (2, 3))
    alpha = square / (2 * square + (clean * cube).sum((2, 3), keepdim=True) + 1e-8)
    activations, gradients = passes[-1]
    return ((alpha * gradients.relu()).sum((2, 3), keepdim=True) * activations).sum(1).relu()


def class_softmax_cam(case: Any, factors: list[float]) -> Tensor:
    """What F-CAM's code calls Score-CAM and IS-CAM: probabilities, added up, as weights of normalised activations."""
    found = []
    for features, (row, class_) in zip(case.at("S5")[0], case.pairs.tolist(), strict=True):
        channels = min_max(features, 1e-8)
        masks = interpolate(channels[:, None], size(case), mode="bilinear", align_corners=False)
        with torch.no_grad():
            scores = [case.model(factor * case.images[row] * masks).softmax(1)[:, class_] for factor in factors]
        found.append((sum(scores)[:, None, None] * channels).sum(0).relu())
    return torch.stack(found)


def fcam_score_cam(case: Any) -> Tensor:
    return class_softmax_cam(case, [1.0])


def fcam_is_cam(case: Any) -> Tensor:
    steps = case.meta["iscam_samples"]
    return class_softmax_cam(case, (torch.arange(1, steps + 1) / steps).cumsum(0).tolist())


# Name of an array -> how it is computed from the case and the groups of the name, tolerance, and of what: "max" is a
# share of the largest magnitude, "abs" is absolute.
CAM_ROWS: dict[str, tuple[Callable[..., Tensor], float, str]] = {
    r"logits": (lambda case: case.recorded.logits, 1e-5, "max"),
    r"(act|grad)_(S[345])": (passed, 1e-5, "max"),
    r"(act|grad)_(S[12])_channel_mean": (lambda *groups: passed(*groups).mean((2, 3)), 1e-5, "max"),
    r"CAM_raw_S5": (cam, 1e-5, "max"),
    r"raw_(\w+CAM\w*)_(S[345])": (raw, 1e-5, "max"),
    r"(torchcam|fcam)_(GradCAM|XGradCAM|LayerCAM)_raw_S5": (rectified, 1e-5, "max"),
    r"(torchcam|fcam)_GradCAMpp_raw_S5": (undivided_grad_cam_plus_plus, 1e-5, "max"),
    rf"pgc_({WEIGHTED}|LayerCAM)_S([345])": (normalised, 1e-4, "abs"),
    r"pgc_(GradCAM|GradCAMpp|LayerCAM)_S(345)_mean": (normalised, 1e-4, "abs"),
    rf"pgc_({WEIGHTED})_weights_(S[345])": (weights, 1e-4, "max"),
    r"pgc_(ScoreCAM|AblationCAM)_(S[45])": (perturbed, 1e-4, "abs"),
    r"pgc_ScoreCAM_weights_(S[45])": (mask_weights, 1e-4, "abs"),
    r"pgc_AblationCAM_weights_(S[45])": (loss_weights, 1e-4, "max"),
    r"torchcam_(LayerCAM)_S(345)_fused": (largest, 1e-4, "abs"),
    r"torchcam_SmoothGradCAMpp_raw_S5": (last_pass_smooth_grad_cam_plus_plus, 1e-5, "max"),
    r"own_SmoothGradCAMpp_raw_S5": (smooth, 1e-5, "max"),
    r"torchcam_ScoreCAM_raw_S5": (torchcam_score_cam, 1e-4, "max"),
    r"torchcam_ISCAM_raw_S5": (torchcam_is_cam, 1e-4, "max"),
    r"sscam_raw_S3": (torchcam_ss_cam, 1e-4, "max"),
    r"fcam_ScoreCAM_raw_S5": (fcam_score_cam, 1e-5, "max"),
    r"fcam_ISCAM_raw_S5": (fcam_is_cam, 1e-5, "max"),
    r"lt_thr_S5_d(\d+)_(channel|layer)": (threshold, 1e-6, "max"),
    r"lt_GradCAM_raw_S5_d(\d+)_(channel|layer)": (truncated, 1e-5, "max"),
    r"lt_(\w+?)_l(5|345)(_norelu)?_d(\d+)(_channel|_layer)?_minmax": (layered, 1e-5, "abs"),
}
CAM_INPUTS = r"w\..+|x|smooth_noise|sscam_x|sscam_noise"
ONLY_POOLED = {r"CAM_raw_S5", r"sscam_raw_S3"}


def all_logits(case: Any) -> Tensor:
    """Logits of all classes; each is the sum of its full gradients."""
    images, classes = case.arrays["logits"].shape
    found = full_gradients(
        case.model, case.arrays["x"], torch.cartesian_prod(torch.arange(images), torch.arange(classes))
    )
    torch.testing.assert_close(found.total(), found.logits, rtol=1e-4, atol=1e-6)
    return found.logits.view(images, classes)


def own_full_gradients(case: Any) -> Any:
    return full_gradients(case.model, case.arrays["x"], case.pairs)


def bias_term(case: Any, index: str) -> Tensor:
    found = own_full_gradients(case)
    term = found.term(list(found.gradients)[int(index)])
    return term.sum((2, 3)) if term.ndim == 4 else term


def saliency(case: Any, percentile: str | None = None) -> Tensor:
    return full_grad(case.model, case.arrays["x"], case.pairs, None if percentile is None else int(percentile))[:, None]


def channelwise_full_grad(case: Any) -> Tensor:
    """What a package calls FullGrad: every channel stretched on its own, corners not aligned, the sum stretched too."""
    found = own_full_gradients(case)
    terms = [found.images * found.input_gradients, *(found.term(layer) for layer in found.gradients)]
    summed = torch.zeros(1)
    for term in (term.abs() for term in terms if term.ndim == 4):
        channels = min_max(term.flatten(0, 1), 1e-7).view(term.shape)
        summed = summed + interpolate(channels, found.images.shape[2:], mode="bilinear", align_corners=False).sum(1)
    return min_max(summed, 1e-7)


FULLGRAD_ROWS: dict[str, tuple[Callable[..., Tensor], float, str]] = {
    r"logits": (all_logits, 1e-5, "max"),
    r"full_gradient_sum": (lambda case: own_full_gradients(case).total(), 1e-4, "each"),
    r"input_grad": (lambda case: own_full_gradients(case).input_gradients, 1e-5, "max"),
    r"bias_grad_(\d+)_sum": (bias_term, 1e-5, "max"),
    r"idiap_saliency": (saliency, 1e-4, "max"),
    r"lt_fullgrad_d(\d+)": (saliency, 1e-4, "max"),
    r"pgc_fullgrad": (channelwise_full_grad, 1e-4, "abs"),
}
FULLGRAD_INPUTS = r"w\..+|x|target"


def check(case: Any, rows: dict[str, tuple[Callable[..., Tensor], float, str]], pattern: str) -> int:
    """Check all arrays whose name fits a pattern; return how many did."""
    compute, tolerance, of = rows[pattern]
    names = {name: match for name in case.arrays if (match := re.fullmatch(pattern, name))}
    for name, match in names.items():
        expected, found = case.arrays[name], compute(case, *match.groups())
        assert found.shape == expected.shape, name
        assert torch.equal(found.isnan(), expected.isnan()), name
        bound = {"max": expected.nan_to_num().abs().max(), "abs": 1.0, "each": expected.nan_to_num().abs()}[of]
        assert ((found - expected).nan_to_num().abs() <= tolerance * bound).all(), name
    return len(names)


def unread(case: Any, rows: dict[str, Any], inputs: str) -> list[str]:
    """Arrays that fit no pattern, or more than one."""
    return [name for name in case.arrays if sum(bool(re.fullmatch(row, name)) for row in [inputs, *rows]) != 1]


class TestCamGoldens:
    @pytest.mark.parametrize("pattern", CAM_ROWS)
    def test_golden(self, cam_case: Any, pattern: str) -> None:
        assert check(cam_case, CAM_ROWS, pattern) > 0 or (pattern in ONLY_POOLED and not cam_case.model.pooled)

    def test_every_array_has_its_check(self, cam_case: Any) -> None:
        assert unread(cam_case, CAM_ROWS, CAM_INPUTS) == []


class TestFullGradGoldens:
    @pytest.mark.parametrize("net", ["A", "B"])
    @pytest.mark.parametrize("pattern", FULLGRAD_ROWS)
    def test_golden(self, full_grad_case: Callable[[str], Any], net: str, pattern: str) -> None:
        assert check(full_grad_case(net), FULLGRAD_ROWS, pattern) > 0

    def test_every_array_has_its_check(
        self, golden: Callable[[str], dict[str, Any]], full_grad_case: Callable[[str], Any]
    ) -> None:
        cases = {net: full_grad_case(net) for net in "AB"}
        assert {f"{net}.{name}" for net in cases for name in cases[net].arrays} | {"_meta"} == set(golden("fullgrad"))
        assert [name for case in cases.values() for name in unread(case, FULLGRAD_ROWS, FULLGRAD_INPUTS)] == []

    @pytest.mark.parametrize("net", ["A", "B"])
    def test_a_term_for_every_layer(self, full_grad_case: Callable[[str], Any], net: str) -> None:
        case = full_grad_case(net)
        assert len(own_full_gradients(case).gradients) == sum(name.startswith("bias_grad") for name in case.arrays)


class TestDefects:
    """Ours is far from what the defective formulas give (their arrays are checked above), and equals the right ones."""

    @pytest.mark.parametrize(
        ("name", "ours"),
        [
            ("torchcam_GradCAMpp_raw_S5", lambda case: grad_cam_plus_plus(*case.at("S5"))),
            ("fcam_GradCAMpp_raw_S5", lambda case: grad_cam_plus_plus(*case.at("S5"))),
            ("torchcam_SmoothGradCAMpp_raw_S5", smooth),
            ("fcam_ScoreCAM_raw_S5", torchcam_score_cam),
            ("fcam_ISCAM_raw_S5", torchcam_is_cam),
        ],
    )
    def test_not_shared(self, cam_case: Any, name: str, ours: Callable[[Any], Tensor]) -> None:
        theirs = cam_case.arrays[name]
        assert (theirs - ours(cam_case)).abs().max() > 0.01 * theirs.abs().max()

    def test_grad_cam_plus_plus_equals_the_formula(self, cam_case: Any) -> None:
        activations, gradients = (values.double() for values in cam_case.at("S5"))
        total = activations.sum((2, 3), keepdim=True)
        alpha = gradients**2 / (2 * gradients**2 + total * gradients**3 + 1e-6)
        channel_weights = (alpha * gradients.relu()).sum((2, 3), keepdim=True)
        expected = (channel_weights * activations).sum(1).relu()
        torch.testing.assert_close(grad_cam_plus_plus(*cam_case.at("S5")).double(), expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("net", ["A", "B"])
    def test_full_grad_is_not_normalised_by_channel(self, full_grad_case: Callable[[str], Any], net: str) -> None:
        case = full_grad_case(net)
        assert (min_max(saliency(case))[:, 0] - case.arrays["pgc_fullgrad"]).abs().max() > 0.01
