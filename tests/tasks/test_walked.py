"""A finished affinity network: loaded, its edges of images, and the maps that walk up to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.affinity import Affinity, Walk
from configs.normalise import Normalise
from methods.activation import min_max
from methods.networks import AffinityNet, ClassifierNetwork, build_classifier
from methods.refinement import random_walk
from storage.index import ImageIndex
from storage.models import WEIGHTS, weights_digest
from storage.stages import FACTS, StageFolder
from tasks.affinity import affinity_parts, new_affinity
from tasks.decoded import begin_decoded
from tasks.images import ImageSource, to_input
from tasks.network import save_model
from tasks.refine import PairMaps
from tasks.walked import EdgeMaps, WalkedWork, load_affinity
from tests.tasks.conftest import Pictures
from tests.tasks.stores import STAGED, KnownMaps, write_proposal

CPU = torch.device("cpu")
SIDE, GRID = 40, 10
AFFINITY = Affinity(model="affinity", proposal="cam")
LABELS = [["cat"], ["cat", "dog"], [], ["eel"], ["dog", "eel"]]
CAT, DOG, EEL = 1, 2, 3
SHARD = 2


@pytest.fixture(scope="module")
def classifier() -> ClassifierNetwork:
    torch.manual_seed(1)
    made = build_classifier("small", 2)
    made.model.eval().requires_grad_(False)
    return made


@pytest.fixture
def network(classifier: ClassifierNetwork) -> AffinityNet:
    """One that finds edges here and there."""
    made = new_affinity(AFFINITY, classifier).requires_grad_(False)
    made.edge.weight *= 20
    return made


class TestLoadAffinity:
    @pytest.fixture
    def folder(self, network: AffinityNet, tmp_path: Path) -> Path:
        save_model(tmp_path / "m", dict(affinity_parts(network).state_dict()), {"decoder": AFFINITY.settings}, [], 0.0)
        return tmp_path / "m"

    def test_weights_arrive(self, network: AffinityNet, classifier: ClassifierNetwork, folder: Path) -> None:
        found = load_affinity(folder, weights_digest(folder), AFFINITY, classifier, CPU)
        state, known = found.state_dict(), network.state_dict()
        assert state.keys() == known.keys()
        assert all(torch.equal(state[name], one) for name, one in known.items())
        assert not found.training
        assert not any(one.requires_grad for one in found.parameters())

    def test_refuses_a_changed_file(self, classifier: ClassifierNetwork, folder: Path) -> None:
        digest = weights_digest(folder)
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[-1] ^= 1
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match=r"expected sha256 .* run `maskmill verify --repair`"):
            load_affinity(folder, digest, AFFINITY, classifier, CPU)


class TestEdgeMaps:
    @pytest.fixture
    def edges(self, network: AffinityNet, pictures: Pictures) -> EdgeMaps:
        source = ImageSource(pictures.root, pictures.index, 10**6)
        return EdgeMaps(network, source, Normalise(), SIDE, 2, CPU)

    def test_smoke(self, edges: EdgeMaps) -> None:
        found = edges(0, [0, 1, 4, 6, 5])
        assert {(one.shape, one.dtype) for one in found} == {((GRID, GRID), torch.float32)}
        assert len(found) == 5
        assert all(0 <= one.min() < one.max() <= 1 for one in found)
        assert edges(0, []) == []

    def test_of_an_image_and_its_mirror_image(self, edges: EdgeMaps) -> None:
        for row, one in zip([3, 0, 5], edges(0, [3, 0, 5]), strict=True):
            image = to_input(edges.source.square(row, SIDE)[None], Normalise(), CPU)
            padded = torch.nn.functional.pad(image, (0, 24, 0, 24))
            logits = (edges.network(padded) + edges.network(padded.flip(-1)).flip(-1)) / 2
            torch.testing.assert_close(one, logits[0, 0, :GRID, :GRID].sigmoid(), rtol=0, atol=1e-5)

    def test_less_memory_same_edges(self, edges: EdgeMaps, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, whole = edges(0, [0, 1, 2]), edges.network.edges

        def scarce(images: Tensor, *, side: int) -> Tensor:
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(images, side=side)

        monkeypatch.setattr(edges.network, "edges", scarce)
        for one, known in zip(edges(0, [0, 1, 2]), plain, strict=True):
            torch.testing.assert_close(one, known, rtol=0, atol=1e-5)
        assert edges.fits == 1


class TestWalkedWork:
    @pytest.fixture
    def index(self, index_of_labels: Callable[..., ImageIndex]) -> ImageIndex:
        return index_of_labels(LABELS)

    @pytest.fixture
    def maps(self, index: ImageIndex) -> dict[tuple[int, int], Tensor]:
        random = torch.Generator().manual_seed(3)
        keys = [(row, k) for row, ids in enumerate(index.class_ids) for k in ids]
        return {key: 5 * torch.rand(5, 5, generator=random) for key in keys}

    @pytest.fixture
    def edges(self) -> dict[int, Tensor]:
        random = torch.Generator().manual_seed(4)
        return {row: torch.rand(GRID, GRID, generator=random) for row in range(len(LABELS))}

    def walk(self, index: ImageIndex, maps: Any, edges: dict[int, Tensor], folder: Path, **walk: Any) -> WalkedWork:
        proposal = write_proposal(folder / "taught_by", index, maps, SHARD)
        walked = StageFolder(folder / "walked")
        begin_decoded(walked, {"shard_images": SHARD}, index, STAGED, GRID)

        work = WalkedWork(index, walked, proposal, KnownMaps(edges), Walk(**walk), SHARD)
        for shard in work.missing():
            work(shard)
        return work

    def test_pairs_are_those_of_the_proposal(self, index: ImageIndex, maps: Any, edges: Any, tmp_path: Path) -> None:
        work = self.walk(index, maps, edges, tmp_path)
        assert work.folder.complete
        told, known = (one.table(FACTS).to_pylist() for one in (work.folder, work.classes))
        names = ("row", "image_id", "class", "class_id", "pair", "score")
        assert [[one[name] for name in names] for one in told] == [[one[name] for name in names] for one in known]
        assert [one["class_id"] for one in told] == [CAT, CAT, DOG, EEL, DOG, EEL]
        # Divided by their maximum, which the small term keeps below 1.
        assert all(0 <= one["minimum"] < 0.999 < one["maximum"] < 1 for one in told)

    def test_each_class_walks_by_itself(self, index: ImageIndex, maps: Any, edges: Any, tmp_path: Path) -> None:
        work = self.walk(index, maps, edges, tmp_path, radius=3, beta=4.0, times=2)
        for row, ids in enumerate(index.class_ids):
            if not ids:
                continue
            before, after = (PairMaps(one, row // SHARD) for one in (work.classes, work.folder))
            start = before.maps(row, (GRID, GRID))
            known = torch.cat([random_walk(one[None], edges[row], radius=3, beta=4, log2_steps=2) for one in start])
            torch.testing.assert_close(after.maps(row, (GRID, GRID)), min_max(known), rtol=0, atol=2e-3)

    def test_an_edge_stops_a_map(self, index: ImageIndex, maps: Any, edges: Any, tmp_path: Path) -> None:
        maps[0, CAT] = torch.zeros(GRID, GRID)
        maps = {key: torch.nn.functional.interpolate(one[None, None], (GRID, GRID))[0, 0] for key, one in maps.items()}
        maps[0, CAT][4, 1] = 1
        edges[0] = torch.zeros(GRID, GRID)
        edges[0][:, 5] = 1
        found = PairMaps(self.walk(index, maps, edges, tmp_path).folder, 0).maps(0, (GRID, GRID))[0]
        assert (found[:, :5] > 0.5).all()
        assert not found[:, 5:].any()

    def test_constant_and_broken_maps(self, index: ImageIndex, maps: Any, edges: Any, tmp_path: Path) -> None:
        plain = self.walk(index, maps, edges, tmp_path / "plain")
        maps[0, CAT] = torch.full((5, 5), 0.3)
        maps[4, DOG][2, 2] = torch.nan
        work = self.walk(index, maps, edges, tmp_path)
        flags = {(one["row"], one["class_id"]): one["flag"] for one in work.folder.table(FACTS).to_pylist()}
        assert {key: flag for key, flag in flags.items() if flag} == {(0, CAT): "constant", (4, DOG): "nonfinite"}
        other, same = (PairMaps(one.folder, 2).maps(4, (GRID, GRID))[1] for one in (work, plain))
        assert torch.equal(other, same)
