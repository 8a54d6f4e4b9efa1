from collections.abc import Callable

import pytest
import torch
from torch import nn

from methods.activation import PairError, UnknownLayerError, fuse, score_cam
from methods.activation.frozen import frozen
from methods.activation.perturbation import channel_scores

LAYERS = {"S4": "features.11", "S5": "features.14"}
PAIRS = torch.tensor([[1, 1], [0, 4], [1, 0]])


class TestScoreCam:
    def test_smoke(self, small_net: nn.Module) -> None:
        assert score_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3").shape == (3, 4, 4)

    @pytest.mark.parametrize("stage", LAYERS)
    def test_golden_normalised(self, cam_case, stage: str) -> None:
        expected = cam_case.arrays[f"pgc_ScoreCAM_{stage}"]
        maps = score_cam(cam_case.model, cam_case.images, cam_case.pairs, LAYERS[stage])
        found = fuse([maps], tuple(expected.shape[1:]), "mean_norm")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("stage", LAYERS)
    def test_golden_weights(self, cam_case, stage: str) -> None:
        expected = cam_case.arrays[f"pgc_ScoreCAM_weights_{stage}"]
        features = cam_case.at(stage)[0]
        rows, classes = cam_case.pairs.unbind(1)
        channels = torch.arange(features.shape[1]).expand(len(rows), -1)
        with torch.no_grad(), frozen(cam_case.model):
            scores = channel_scores(
                cam_case.model, cam_case.images, features, rows, channels, masks="enlarged_first", batch=5
            )
        for place, class_ in enumerate(classes.tolist()):
            weights = scores[:, place, class_].softmax(0)
            torch.testing.assert_close(weights, expected[place], rtol=0, atol=1e-4)

    def test_golden_normalised_first(self, cam_case, close: Callable[..., None]) -> None:
        found = score_cam(cam_case.model, cam_case.images, cam_case.pairs, LAYERS["S5"], masks="normalised_first")
        close(found, cam_case.arrays["torchcam_ScoreCAM_raw_S5"], 1e-4)

    @pytest.mark.parametrize("batch", [1, 3, 100])
    def test_batch_changes_nothing(self, small_net: nn.Module, batch: int) -> None:
        images = torch.rand(2, 3, 8, 8)
        found = score_cam(small_net, images, PAIRS, "3", batch=batch)
        torch.testing.assert_close(found, score_cam(small_net, images, PAIRS, "3"))

    def test_rows_do_not_depend_on_their_company(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        alone = score_cam(small_net, images[1:], torch.tensor([[0, 0]]), "3")
        torch.testing.assert_close(score_cam(small_net, images, PAIRS, "3")[2], alone[0])

    def test_score_is_a_parameter(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        flat = score_cam(small_net, images, PAIRS, "3", score=lambda logits: 0 * logits)
        plain = small_net.eval()[:4](images)[PAIRS[:, 0]].mean(1)
        torch.testing.assert_close(flat, plain.detach().relu())

    @pytest.mark.parametrize("options", [{"batch": 0}, {"max_maps": 0}, {"masks": "soft"}, {"precision": torch.int8}])
    def test_refuses_options(self, small_net: nn.Module, options: dict) -> None:
        with pytest.raises(ValueError, match="expected"):
            score_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3", **options)

    def test_refuses_layer_and_pair(self, small_net: nn.Module) -> None:
        with pytest.raises(UnknownLayerError):
            score_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "x")
        with pytest.raises(PairError, match="class is outside"):
            score_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS + torch.tensor([0, 1]), "3")
