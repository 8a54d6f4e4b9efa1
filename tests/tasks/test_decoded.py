"""A finished decoder: kept, loaded, and its maps of images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.decoders import Decoder, DipsDecoder, FcamDecoder
from configs.normalise import Normalise
from methods.networks import ClassifierNetwork, build_classifier
from storage.models import WEIGHTS, weights_digest
from storage.stages import StageFolder
from tasks.decode import new_decoder, trained_parts
from tasks.decoded import DecodedMaps, begin_decoded, load_decoder
from tasks.images import ImageSource, to_input
from tasks.network import save_model
from tasks.propose import SCORE
from tests.tasks.conftest import Pictures
from tests.tasks.stores import STAGED

CPU = torch.device("cpu")
SIDE = 32
WIDTHS = [8, 8, 4, 4, 4]
DECODERS: list[Decoder] = [
    FcamDecoder(model="fcam", proposal="cam", widths=WIDTHS),
    DipsDecoder(model="dips", encoder="small", widths=WIDTHS),
]


@pytest.fixture(scope="module")
def classifier() -> ClassifierNetwork:
    torch.manual_seed(1)
    made = build_classifier("small", 2)
    made.model.eval().requires_grad_(False)
    return made


@pytest.fixture(params=DECODERS, ids=["fcam", "dips"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    made: Decoder = request.param
    return made


def changed(decoder: Decoder, classifier: ClassifierNetwork) -> dict[str, Tensor]:
    """Weights of a decoder that learned something."""
    random = torch.Generator().manual_seed(4)
    state = trained_parts(new_decoder(decoder, classifier)).state_dict()
    return {
        name: one + 0.1 * torch.rand(one.shape, generator=random) if one.is_floating_point() else one
        for name, one in state.items()
    }


class TestLoadDecoder:
    def test_weights_arrive(self, decoder: Decoder, classifier: ClassifierNetwork, tmp_path: Path) -> None:
        weights = changed(decoder, classifier)
        save_model(tmp_path / "decoder-1", weights, {"decoder": decoder.settings}, [], 0.0)
        digest = weights_digest(tmp_path / "decoder-1")
        network = load_decoder(tmp_path / "decoder-1", digest, decoder, classifier, CPU)
        found = trained_parts(network).state_dict()
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], one) for name, one in weights.items())
        assert not network.training
        assert not any(one.requires_grad for one in network.parameters())

    def test_refuses_a_changed_file(self, decoder: Decoder, classifier: ClassifierNetwork, tmp_path: Path) -> None:
        folder = tmp_path / "decoder-1"
        save_model(folder, changed(decoder, classifier), {"decoder": decoder.settings}, [], 0.0)
        digest = weights_digest(folder)
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[-1] ^= 1
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match=r"expected sha256 .* run `maskmill verify --repair`"):
            load_decoder(folder, digest, decoder, classifier, CPU)

    def test_the_classifier_is_not_changed(
        self, decoder: Decoder, classifier: ClassifierNetwork, tmp_path: Path
    ) -> None:
        before = {name: one.clone() for name, one in classifier.model.state_dict().items()}
        save_model(tmp_path / "decoder-1", changed(decoder, classifier), {"decoder": decoder.settings}, [], 0.0)
        load_decoder(tmp_path / "decoder-1", weights_digest(tmp_path / "decoder-1"), decoder, classifier, CPU)
        assert all(torch.equal(before[name], one) for name, one in classifier.model.state_dict().items())


class TestDecodedMaps:
    @pytest.fixture
    def maps(self, decoder: Decoder, classifier: ClassifierNetwork, pictures: Pictures) -> DecodedMaps:
        network = new_decoder(decoder, classifier)
        trained_parts(network).load_state_dict(changed(decoder, classifier))
        source = ImageSource(pictures.root, pictures.index, 10**6)
        return DecodedMaps(network.requires_grad_(False), source, Normalise(), SIDE, 2, CPU)

    def test_smoke(self, maps: DecodedMaps) -> None:
        found = maps(0, [0, 1, 4, 6, 5])
        assert len(found) == 5
        assert {(one.shape, one.dtype) for one in found} == {((SIDE, SIDE), torch.float32)}
        assert all(0 <= one.min() < one.max() <= 1 for one in found)

    def test_a_map_is_that_of_its_image_alone(self, maps: DecodedMaps) -> None:
        for row, one in zip([3, 0, 5], maps(0, [3, 0, 5]), strict=True):
            image = to_input(maps.source.square(row, SIDE)[None], Normalise(), CPU)
            torch.testing.assert_close(one, maps.network.foreground(image)[0], rtol=0, atol=1e-5)

    def test_no_image_no_map(self, maps: DecodedMaps) -> None:
        assert maps(0, []) == []

    def test_less_memory_same_maps(self, maps: DecodedMaps, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, foreground = maps(0, [0, 1, 2]), maps.network.foreground

        def scarce(images: Tensor) -> Tensor:
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return foreground(images)

        monkeypatch.setattr(maps.network, "foreground", scarce)
        for one, known in zip(maps(0, [0, 1, 2]), plain, strict=True):
            torch.testing.assert_close(one, known, rtol=0, atol=1e-5)
        assert maps.fits == 1


class TestBeginDecoded:
    def test_maps_have_the_size_of_the_input(self, pictures: Pictures, tmp_path: Path) -> None:
        folder = StageFolder(tmp_path / "propose-1")
        basis: dict[str, Any] = {"shard_images": 3, "probabilities": True}
        begin_decoded(folder, basis, pictures.index, STAGED, SIDE)
        spec = folder.spec(SCORE)
        assert (spec.item, spec.shard_rows, spec.rows) == ((SIDE, SIDE), 3, 9)
        assert folder.manifest["index_stage"] == STAGED
        assert folder.missing() == [0, 1, 2]
