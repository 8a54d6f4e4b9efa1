import pytest
import torch
from torch import Tensor

from configs.refine import ScgStep
from methods.activation import min_max, record, soft_maps
from methods.activation.soft_maps import Recipe
from methods.networks import ClassifierNetwork, build_classifier
from methods.refinement import RECURSEED, correlate_levels, scg
from tasks import correlate
from tasks.correlate import Correlator, correlation_grid, resized
from tasks.images import probe_images

PAIRS = torch.tensor([[0, 1], [1, 2], [1, 0]])


@pytest.fixture(scope="module")
def network() -> ClassifierNetwork:
    torch.manual_seed(1)
    made = build_classifier("small", 3)
    made.model.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def images() -> Tensor:
    return probe_images(64, torch.device("cpu"))


class TestCorrelator:
    def _maps(self, network: ClassifierNetwork, images: Tensor, step: ScgStep) -> tuple[Tensor, Tensor, Tensor]:
        correlator = Correlator(network, step)
        seen = record(network.model, images, PAIRS, correlator.layers)
        (maps,) = soft_maps(seen, [Recipe("layer_cam", (correlator.layers[-1],))])
        return maps, correlator(seen, {"one": maps})["one"], correlator(seen, {"a": maps, "b": maps.flip(2)})["b"]

    def test_equal_to_one_image_and_class_at_a_time(self, network: ClassifierNetwork, images: Tensor) -> None:
        step = ScgStep(step="scg", layers=["S4", "S5"])
        maps, found, _ = self._maps(network, images, step)
        grid = correlation_grid(network, step, images)
        assert found.shape == (3, *grid)
        correlator = Correlator(network, step)
        seen = record(network.model, images, PAIRS, correlator.layers)
        for place, (row, _) in enumerate(PAIRS.tolist()):
            levels = [resized(seen.activations[layer][row : row + 1], grid) for layer in correlator.layers]
            correlation = correlate_levels(levels, RECURSEED)
            large = torch.nn.functional.interpolate(maps[place][None, None], grid, mode="bilinear")
            seeds = large / large.max().clamp(min=1e-12)
            alone = scg(seeds, correlation, foreground=0.3, background=0.05)[0, 0]
            torch.testing.assert_close(found[place], alone, rtol=0, atol=1e-4)

    def test_blocks_of_images_change_nothing(
        self, network: ClassifierNetwork, images: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step = ScgStep(step="scg", layers=["S5"], variant="spa_cub")
        _, found, other = self._maps(network, images, step)
        monkeypatch.setattr(correlate, "MEMORY", 1)
        _, single, single_other = self._maps(network, images, step)
        torch.testing.assert_close(single, found, rtol=0, atol=1e-5)
        torch.testing.assert_close(single_other, other, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("variant", ["recurseed", "spa_cub"])
    def test_what_is_not_finite_stays_so(self, network: ClassifierNetwork, images: Tensor, variant: str) -> None:
        step = ScgStep.model_validate({"step": "scg", "layers": ["S5"], "variant": variant})
        maps, whole, _ = self._maps(network, images, step)
        correlator = Correlator(network, step)
        seen = record(network.model, images, PAIRS, correlator.layers)
        broken = maps.clone()
        broken[0, 0, 0] = torch.nan
        found = correlator(seen, {"one": broken})["one"]
        assert found[0].isnan().all()
        torch.testing.assert_close(found[1:], whole[1:], rtol=0, atol=0)

    def test_constants_come_from_the_variant_unless_given(self, network: ClassifierNetwork) -> None:
        plain = Correlator(network, ScgStep(step="scg")).constants
        given = Correlator(network, ScgStep(step="scg", foreground=0.6)).constants
        assert plain == RECURSEED
        assert (given.foreground, given.first_threshold) == (0.6, RECURSEED.first_threshold)

    def test_grid_is_limited(self, network: ClassifierNetwork, images: Tensor) -> None:
        assert correlation_grid(network, ScgStep(step="scg", layers=["S1"], max_grid=7), images) == (7, 7)

    def test_resized_keeps_the_mean(self) -> None:
        features = torch.rand(1, 2, 8, 8)
        assert resized(features, (8, 8)) is features
        torch.testing.assert_close(resized(features, (4, 4)).mean(), features.mean())
        assert resized(min_max(features[0])[None], (16, 16)).shape == (1, 2, 16, 16)
