"""Works travel to other processes whole, and compute the same there."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flows.parcel import pack, unpack
from methods.networks import build_classifier
from storage.index import ImageIndex, build_index
from tasks.images import ImageSource
from tests.flows.launcher import PROJECT

OPEN = """
import pickle, sys
import torch
from flows.parcel import unpack
work = unpack(open(sys.argv[1], "rb").read())
with torch.no_grad():
    pickle.dump((work.network(work.images), str(work.device)), open(sys.argv[2], "wb"))
"""


class Plain:
    """Stands in for a work without a network."""

    title = "plain"

    def __init__(self, value: object) -> None:
        self.value = value

    def missing(self) -> list[int]:
        return []

    def __call__(self, shard: int) -> None:
        raise NotImplementedError


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    model = build_classifier("small", 3).model
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


class TestParcel:
    def test_smoke(self) -> None:
        parcel = pack(Plain({"a": [1, 2]}), "auto")
        found = unpack(parcel.data)
        assert isinstance(found, Plain)
        assert found.value == {"a": [1, 2]}
        assert not parcel.network

    def test_networks_are_told(self, network: nn.Module) -> None:
        assert pack(Plain([network]), "auto").network

    def test_a_network_that_two_share_stays_one(self, network: nn.Module) -> None:
        found = unpack(pack(Plain((network, network)), "cpu").data)
        assert isinstance(found, Plain)
        assert isinstance(found.value, tuple)
        first, second = found.value
        assert first is second

    def test_weights_keep_their_bytes_and_layout(self, network: nn.Module) -> None:
        found = unpack(pack(Plain(network), "cpu").data)
        assert isinstance(found, Plain)
        assert isinstance(found.value, nn.Module)
        before, after = network.state_dict(), found.value.state_dict()
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert torch.equal(value, after[name])
            assert value.stride() == after[name].stride()
        assert not any(one.requires_grad for one in found.value.parameters())

    def test_devices_are_those_of_whoever_unpacks(self) -> None:
        # A tensor that this process could not even read: its device is only a name here.
        found = unpack(pack(Plain((torch.device("cuda:7"), torch.zeros(2, device="meta").device)), "cpu").data)
        assert isinstance(found, Plain)
        assert found.value == (torch.device("cpu"), torch.device("cpu"))

    def test_another_process_computes_the_same(self, network: nn.Module, tmp_path: Path) -> None:
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        work = Passing(network, images, torch.device("cpu"))
        (tmp_path / "parcel").write_bytes(pack(work, "cpu").data)
        command = [sys.executable, "-c", OPEN, str(tmp_path / "parcel"), str(tmp_path / "found")]
        paths = {"PYTHONPATH": f"{PROJECT}", "OMP_NUM_THREADS": str(torch.get_num_threads())}
        subprocess.run(command, env=paths, check=True, timeout=120)
        found, device = pickle.loads((tmp_path / "found").read_bytes())
        assert torch.equal(found, network(images))
        assert device == "cpu"


class Passing(Plain):
    """A work with a network."""

    def __init__(self, network: nn.Module, images: Tensor, device: torch.device) -> None:
        super().__init__(None)
        self.network, self.images, self.device = network, images, device


class TestImageSource:
    def test_starts_threads_of_its_own(self, index: ImageIndex, tmp_path: Path) -> None:
        source = ImageSource(tmp_path, index, 100, threads=7)
        found = pickle.loads(pickle.dumps(source))
        assert (found.root, found.max_pixels, found.index.key) == (tmp_path, 100, index.key)
        assert list(found.groups([0, 1], 1, str)) == [([0], ["0"]), ([1], ["1"])]
        source.close()
        found.close()


@pytest.fixture
def index() -> ImageIndex:
    import pyarrow as pa

    rows = [
        {
            "image_id": name,
            "path": name,
            "split": "train",
            "width": 8,
            "height": 8,
            "mode": "RGB",
            "sha256": name,
            "labels": [],
            "status": "ok",
            "reason": "",
            "orientation": 1,
            "bytes": 1,
        }
        for name in "ab"
    ]
    return build_index(pa.Table.from_pylist(rows), [])
