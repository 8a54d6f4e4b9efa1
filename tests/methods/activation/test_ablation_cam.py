import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from methods.activation import ablation_cam, class_activation_map, fuse
from methods.activation.ablation_cam import relative_losses
from methods.activation.frozen import frozen

LAYERS = {"S4": "features.11", "S5": "features.14"}
PAIRS = torch.tensor([[1, 1], [0, 4], [1, 0]])


class TestAblationCam:
    def test_smoke(self, small_net: nn.Module) -> None:
        assert ablation_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3").shape == (3, 4, 4)

    @pytest.mark.parametrize("stage", LAYERS)
    def test_golden_normalised(self, cam_case, stage: str) -> None:
        expected = cam_case.arrays[f"pgc_AblationCAM_{stage}"]
        maps = ablation_cam(cam_case.model, cam_case.images, cam_case.pairs, LAYERS[stage])
        found = fuse([maps], tuple(expected.shape[1:]), "mean_norm")
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("stage", LAYERS)
    def test_golden_weights(self, cam_case, close: Callable[..., None], stage: str) -> None:
        expected = cam_case.arrays[f"pgc_AblationCAM_weights_{stage}"]
        channels = torch.arange(expected.shape[1])
        found = []
        with torch.no_grad(), frozen(cam_case.model):
            for row, class_ in cam_case.pairs.tolist():
                logits = cam_case.recorded.logits[row]
                losses = relative_losses(cam_case.model, cam_case.images[row], LAYERS[stage], channels, logits, 5)
                found.append(losses[:, class_])
        close(torch.stack(found), expected, 1e-4)

    def test_linear_head_gives_cam(self) -> None:
        # Behind a mean and a linear layer a channel's loss is its weight times its mean.
        torch.manual_seed(2)
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2, bias=False))
        image = torch.rand(1, 3, 3, 3)
        features = model[0](image).detach()
        weights = model[3].weight.detach()[1] * features.mean((2, 3))
        expected = class_activation_map(features, weights / weights.sum())
        found = ablation_cam(model, image, torch.tensor([[0, 1]]), "0", rectify=False)
        torch.testing.assert_close(found, expected)

    def test_in_place_module_after_the_layer(self, small_net: nn.Module) -> None:
        images = torch.rand(2, 3, 8, 8)
        found = ablation_cam(small_net, images, PAIRS, "1")
        small_net[2].inplace = False
        assert torch.equal(ablation_cam(small_net, images, PAIRS, "1"), found)

    def test_logit_of_zero(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2, 1))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        maps = ablation_cam(model, torch.rand(1, 3, 1, 1), torch.tensor([[0, 0]]), "0")
        assert maps.tolist() == [[[0.0]]]

    def test_two_threads_on_one_network(self, small_net: nn.Module) -> None:
        batches = [torch.rand(2, 3, 8, 8) for _ in range(2)]
        expected = [ablation_cam(small_net, images, PAIRS, "3") for images in batches]
        wrong: list[int] = []

        def work(index: int) -> None:
            for turn in range(20):
                if not torch.equal(ablation_cam(small_net, batches[index], PAIRS, "3"), expected[index]):
                    wrong.append(turn)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    @pytest.mark.parametrize("batch", [1, 3, 100])
    def test_batch_changes_nothing(self, small_net: nn.Module, batch: int) -> None:
        images = torch.rand(2, 3, 8, 8)
        found = ablation_cam(small_net, images, PAIRS, "3", batch=batch)
        torch.testing.assert_close(found, ablation_cam(small_net, images, PAIRS, "3"))

    def test_score_is_a_parameter(self, small_net: nn.Module) -> None:
        images, pairs = torch.rand(2, 3, 8, 8), torch.tensor([[0, 1], [1, 0]])
        plain = ablation_cam(small_net, images, torch.tensor([[0, 4], [1, 3]]), "3")
        found = ablation_cam(small_net, images, pairs, "3", score=lambda logits: logits[:, 3:])
        torch.testing.assert_close(found, plain)

    def test_what_comes_before_the_layer_runs_for_few_images(self, small_net: nn.Module) -> None:
        rows: list[int] = []
        small_net[0].register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
        ablation_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "4", batch=3)
        # The clean pass of both images; three passes of the trial; one for the six channels of each image, whose
        # maps are less than half as large as the largest ones.
        assert rows == [2, 1, 1, 1, 1, 1]

    def test_out_of_memory_halves_the_batch(self, small_net: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
        images = torch.rand(2, 3, 8, 8)
        expected = ablation_cam(small_net, images, PAIRS, "4")

        def full(_module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if len(inputs[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")

        small_net[7].register_forward_pre_hook(full)
        torch.testing.assert_close(ablation_cam(small_net, images, PAIRS, "4"), expected)
        assert "batch of 6, going on with 3" in caplog.text

    @pytest.mark.parametrize("options", [{"batch": 0}, {"max_maps": 0}])
    def test_refuses_options(self, small_net: nn.Module, options: dict) -> None:
        with pytest.raises(ValueError, match="of at least 1, got 0"):
            ablation_cam(small_net, torch.rand(2, 3, 8, 8), PAIRS, "3", **options)
