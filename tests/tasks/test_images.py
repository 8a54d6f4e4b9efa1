import threading

import numpy as np
import pytest
import torch
from PIL import Image

from configs.normalise import Normalise
from storage.indexed_images import ChangedImageError
from tasks.images import ImageSource, pick_device, to_input


class TestImageSource:
    @pytest.fixture
    def source(self, pictures):
        source = ImageSource(pictures.root, pictures.index, max_pixels=1000)
        yield source
        source.close()

    def test_smoke(self, source: ImageSource, pictures) -> None:
        for row, pixels in enumerate(pictures.pixels):
            assert np.array_equal(source.pixels(row), pixels)

    def test_square(self, source: ImageSource, pictures) -> None:
        resized = Image.fromarray(pictures.pixels[3]).resize((8, 8), Image.Resampling.BILINEAR)
        found = source.square(3, 8)
        assert (found.shape, found.dtype) == ((3, 8, 8), torch.uint8)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(resized))

    @pytest.mark.parametrize("batch", [1, 2, 3, 7, 50])
    def test_batches_keep_the_order(self, source: ImageSource, batch: int) -> None:
        rows = [6, 0, 3, 3, 1, 5, 2]
        found = list(source.batches(rows, 8, batch))
        assert [len(group) for group, _ in found] == [len(images) for _, images in found]
        assert [row for group, _ in found for row in group] == rows
        images = torch.cat([images for _, images in found])
        assert all(torch.equal(image, source.square(row, 8)) for image, row in zip(images, rows))

    def test_no_rows(self, source: ImageSource) -> None:
        assert list(source.batches([], 8, 3)) == []

    def test_a_batch_that_is_given_up_ends(self, source: ImageSource) -> None:
        before = set(threading.enumerate())
        batches = source.batches(range(7), 8, 2)
        next(batches)
        assert set(threading.enumerate()) > before
        source.close()
        assert set(threading.enumerate()) <= before

    def test_refuses_a_file_that_changed(self, source: ImageSource, pictures) -> None:
        Image.fromarray(pictures.pixels[0]).save(pictures.root / "i2.png")
        with pytest.raises(ChangedImageError, match=r"i2\.png: the file changed since it was staged; run again"):
            source.pixels(2)
        with pytest.raises(ChangedImageError, match=r"i2\.png"):
            list(source.batches([0, 1, 2], 8, 1))


class TestToInput:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)

    def test_golden(self) -> None:
        found = to_input(self.images, Normalise(mean=[0.0, 0.2, 0.5], std=[1.0, 1.0, 0.25]), torch.device("cpu"))
        torch.testing.assert_close(found.ravel(), torch.tensor([0.0, 0.0, 2.0]))
        assert found.dtype == torch.float32

    def test_bgr_and_scale(self) -> None:
        normalise = Normalise(channels="bgr", scale=1.0, mean=[100.0, 0.0, 1.0], std=[1.0, 1.0, 1.0])
        found = to_input(self.images, normalise, torch.device("cpu"))
        assert found.ravel().tolist() == [155.0, 51.0, -1.0]


class TestPickDevice:
    def test_smoke(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert [pick_device(wish).type for wish in ("cpu", "auto")] == ["cpu", "cpu"]
        with pytest.raises(ValueError, match=r"runtime\.device: expected a CUDA device, torch sees none; use auto"):
            pick_device("cuda")

    def test_with_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert [pick_device(wish).type for wish in ("cpu", "auto", "cuda")] == ["cpu", "cuda", "cuda"]
