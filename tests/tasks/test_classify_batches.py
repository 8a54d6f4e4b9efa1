from typing import Any

import pytest
import torch

from configs.schema import Classifier
from configs.training import Training
from tasks.augment import augment
from tasks.classify import feature_batches, image_batches
from tasks.engine import step_seed
from tasks.images import ImageSource, to_input

CPU = torch.device("cpu")


class TestFeatureBatches:
    def test_every_row_once_with_its_labels(self) -> None:
        data = torch.arange(11.0)[:, None]
        batches = feature_batches(data, data > 5, Training(batch_size=4), list(range(20, 31)))
        orders = []
        for epoch in (0, 1, 0):
            found, steps = batches(epoch)
            parts = list(found)
            assert [len(part.tensors["images"]) for part in parts] == [4, 4, 3]
            assert steps == 3
            assert all(torch.equal(part.tensors["images"] > 5, part.tensors["targets"]) for part in parts)
            assert all(part.rows == [20 + int(one) for one in part.tensors["images"]] for part in parts)
            orders.append(torch.cat([part.tensors["images"] for part in parts]).ravel().tolist())
        assert sorted(orders[0]) == list(range(11))
        assert orders[0] == orders[2] != orders[1]


class TestImageBatches:
    @pytest.fixture
    def source(self, pictures: Any) -> Any:
        source = ImageSource(pictures.root, pictures.index, max_pixels=1000)
        yield source
        source.close()

    def config(self, **settings: Any) -> Classifier:
        return Classifier(input_size=32, train=Training(**{"batch_size": 2, **settings}))

    @pytest.mark.parametrize(("batch", "sizes"), [(2, [2, 2, 2]), (3, [3, 3]), (4, [4, 3]), (7, [7]), (1, [1] * 7)])
    def test_a_last_batch_of_one_is_left_out(self, source: ImageSource, batch: int, sizes: list[int]) -> None:
        make = image_batches(source, self.config(batch_size=batch), list(range(7)), torch.eye(7), CPU)
        found, steps = make(0)
        parts = list(found)
        assert [len(part.tensors["images"]) for part in parts] == sizes
        assert steps == len(sizes)
        seen = torch.cat([part.tensors["targets"] for part in parts]).sum(dim=0)
        assert seen.tolist().count(1) == sum(sizes)

    def test_images_belong_to_their_labels(self, source: ImageSource) -> None:
        config, rows = self.config(augment=False), [5, 2, 4, 1]
        for part in image_batches(source, config, rows, torch.eye(4), CPU)(3)[0]:
            for image, target in zip(part.tensors["images"], part.tensors["targets"]):
                row = rows[int(target.argmax())]
                assert torch.equal(image, to_input(source.square(row, 32)[None], config.normalise, CPU)[0])

    def test_an_epoch_repeats_itself(self, source: ImageSource) -> None:
        make = image_batches(source, self.config(vertical_flip=True), list(range(6)), torch.eye(6), CPU)
        first, again, other = (torch.cat([part.tensors["images"] for part in make(epoch)[0]]) for epoch in (4, 4, 5))
        assert first.shape == (6, 3, 32, 32)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_augmented_as_by_hand(self, source: ImageSource) -> None:
        config = self.config(batch_size=6, vertical_flip=True)
        (part,) = image_batches(source, config, list(range(6)), torch.eye(6), CPU)(0)[0]
        generator = torch.Generator().manual_seed(step_seed(0, 0))
        order = torch.randperm(6, generator=generator)
        images = torch.stack([source.square(row, 36) for row in order.tolist()])
        expected = to_input(augment(images, 32, generator, vertical=True), config.normalise, CPU)
        assert torch.equal(part.tensors["images"], expected)
        assert part.tensors["targets"].argmax(dim=1).tolist() == order.tolist()
