import io
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from configs.dataset import FolderDataset
from storage.decode import ImageRefused, decode_image, read_bytes, read_image
from storage.readers import read_dataset
from tests.storage.zoo import build_zoo

CAP = 10_000


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (30, 20)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


class TestDecodeImage:
    def test_smoke(self) -> None:
        image = decode_image(encode(noise()), CAP)
        assert image.pixels.shape == (20, 30, 3)
        assert image.pixels.dtype == np.uint8
        assert image.pixels.flags.writeable
        assert (image.mode, image.orientation) == ("RGB", 1)

    @pytest.mark.parametrize("form", ["JPEG", "TIFF", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_is_applied(self, form: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x112] = orientation
        data = encode(noise(), form, exif=exif)
        image = decode_image(data, CAP)
        with Image.open(io.BytesIO(data)) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
        assert image.orientation == orientation
        np.testing.assert_array_equal(image.pixels, expected)

    def test_orientation_that_cannot_be_read_is_upright(self) -> None:
        image = decode_image(encode(noise(), "JPEG", exif=b"Exif\0\0no such thing"), CAP)
        assert image.orientation == 1

    @pytest.mark.parametrize("form", ["PNG", "TIFF"])
    def test_sixteen_bit_grey_is_scaled(self, form: str) -> None:
        values = np.asarray([[0, 257, 32768, 65535, 128, 129]], np.uint16)
        image = decode_image(encode(Image.fromarray(values), form), CAP)
        assert image.mode == "I;16"
        assert image.pixels[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]

    def test_pgm_is_scaled_from_its_own_maximum(self) -> None:
        image = decode_image(b"P5 2 1 4095\n" + struct.pack(">2H", 4095, 2048), CAP)
        assert image.pixels[0, :, 0].tolist() == [255, 128]

    @pytest.mark.parametrize(("dtype", "mode"), [(np.int32, "I"), (np.float32, "F")])
    def test_refuses_values_without_a_range(self, dtype: Any, mode: str) -> None:
        with pytest.raises(ImageRefused, match=f"mode {mode} has no stated range; save"):
            decode_image(encode(Image.fromarray(np.ones((3, 3), dtype)), "TIFF"), CAP)

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
    def test_modes_become_rgb(self, mode: str) -> None:
        image = Image.new("LAB", (3, 3), (128, 0, 0)) if mode == "LAB" else noise(mode)
        decoded = decode_image(encode(image, "TIFF"), CAP)
        assert decoded.mode == mode
        np.testing.assert_array_equal(decoded.pixels, np.asarray(image.convert("RGB")))

    def test_alpha_is_laid_over_black(self) -> None:
        assert decode_image(encode(Image.new("RGBA", (1, 1), (200, 100, 50, 128))), CAP).pixels.tolist() == [
            [[100, 50, 25]]
        ]
        assert decode_image(encode(Image.new("LA", (1, 1), (200, 0))), CAP).pixels.max() == 0

    def test_transparent_palette_entry_is_black(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.putdata([0, 1])
        decoded = decode_image(encode(image, transparency=0), CAP)
        assert decoded.pixels.tolist() == [[[0, 0, 0], [0, 255, 0]]]

    def test_metadata_remarks_are_silent_and_harmless(self) -> None:
        data = encode(noise("P"), transparency=bytes([0, 128, 255]))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            decode_image(data, CAP)
        assert not seen

    def test_threads_agree(self) -> None:
        data = encode(noise(), "JPEG")
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: decode_image(data, CAP).pixels.sum(), range(40)))
        assert len(set(results)) == 1

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
    def test_refuses_every_truncation(self, form: str) -> None:
        data = encode(noise(), form)
        for length in range(1, len(data) - 4, max(1, len(data) // 40)):
            with pytest.raises(ImageRefused):
                decode_image(data[:length], CAP)

    def test_refuses_flipped_bits_of_png(self) -> None:
        data = encode(noise())
        for place in range(20, len(data) - 16, 61):
            damaged = bytearray(data)
            damaged[place] ^= 1
            with pytest.raises(ImageRefused, match="damaged"):
                decode_image(bytes(damaged), CAP)

    def test_refuses_too_many_pixels_by_the_header(self) -> None:
        header = encode(Image.new("1", (200, 100)))[:60]
        with pytest.raises(ImageRefused, match="expected at most 10000, saw 200 x 100"):
            decode_image(header + b"nothing", CAP)

    @pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP"])
    def test_refuses_several_frames(self, form: str) -> None:
        frames = [noise(), noise().transpose(Image.Transpose.ROTATE_180)]
        with pytest.raises(ImageRefused, match="expected one frame, found 2"):
            decode_image(encode(frames[0], form, save_all=True, append_images=frames[1:]), CAP)

    def test_takes_the_first_picture_of_a_phone_file(self) -> None:
        frames = [noise(), noise().transpose(Image.Transpose.ROTATE_180)]
        both = decode_image(encode(frames[0], "MPO", save_all=True, append_images=frames[1:]), CAP)
        np.testing.assert_array_equal(both.pixels, decode_image(encode(frames[0], "JPEG"), CAP).pixels)

    @pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html><html></html>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
    def test_refuses_what_is_no_image(self, data: bytes) -> None:
        with pytest.raises(ImageRefused, match="not an image"):
            decode_image(data, CAP)


class TestReadBytes:
    def test_smoke(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a").write_bytes(b"abc")
        assert read_bytes(tmp_path, "sub/a") == b"abc"

    def test_read_image(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(encode(noise()))
        assert read_image(tmp_path, "a.jpg", CAP).pixels.shape == (20, 30, 3)

    @pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "../a", "sub/../../a", "a\0b"])
    def test_refuses_paths_that_are_not_below(self, tmp_path: Path, path: str) -> None:
        with pytest.raises(ImageRefused, match="expected a path below the data root"):
            read_bytes(tmp_path, path)

    def test_links_may_stay_inside(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        (root / "a").write_bytes(b"abc")
        (root / "inside").symlink_to("a")
        (tmp_path / "secret").write_bytes(b"secret")
        (root / "outside").symlink_to(tmp_path / "secret")
        (root / "loop").symlink_to("loop")
        assert read_bytes(root, "inside") == b"abc"
        with pytest.raises(ImageRefused, match="leads out of the data root"):
            read_bytes(root, "outside")
        with pytest.raises(ImageRefused, match=r"loop of links|symbolic links"):
            read_bytes(root, "loop")

    def test_root_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "a").write_bytes(b"abc")
        (tmp_path / "link").symlink_to("real")
        assert read_bytes(tmp_path / "link", "a") == b"abc"

    def test_refuses_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "folder").mkdir()
        for name in ("pipe", "folder"):
            with pytest.raises(ImageRefused, match="not a regular file"):
                read_bytes(tmp_path, name)
        with pytest.raises(ImageRefused, match="file not found: 'absent'"):
            read_bytes(tmp_path, "absent")
        with pytest.raises(ImageRefused, match="cannot be read"):
            read_bytes(tmp_path, "n" * 300)

    def test_refuses_large_files(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"abc")
        with pytest.raises(ImageRefused, match="expected at most 2 bytes, saw 3"):
            read_bytes(tmp_path, "a", max_bytes=2)


class TestZoo:
    def test_every_file_meets_its_fate(self, tmp_path: Path) -> None:
        items = build_zoo(tmp_path / "zoo")
        assert len(items) >= 40
        listing = read_dataset(FolderDataset(format="folder", root=tmp_path / "zoo"))
        expected = {item.name.replace("\n", "\\n"): item for item in items}
        assert {sample.path for sample in listing.samples} == set(expected)
        assert len({sample.image_id for sample in listing.samples}) == len(items)
        for sample in listing.samples:
            item, reason = expected[sample.path], sample.refused
            if not reason:
                try:
                    read_image(tmp_path / "zoo", sample.path, 50_000_000)
                except ImageRefused as refusal:
                    reason = str(refusal)
            assert (item.outcome == "ok") == (not reason), (item, reason)
            assert item.reason_contains in reason, (item, reason)
