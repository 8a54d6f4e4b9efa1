"""A zoo of image files as they occur in the field: well-formed but odd, damaged, hostile, and oddly named."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

SIZE = (48, 32)
CLASSES = ("cat", "dog")


@dataclass(frozen=True, slots=True)
class ZooItem:
    """One file: its path below the zoo, what shall become of it, and a part of the reason where it is refused."""

    name: str
    outcome: Literal["ok", "quarantined"]
    reason_contains: str = ""


def build_zoo(folder: Path) -> list[ZooItem]:
    """Write the zoo as class folders (``cat`` holds contents, ``dog`` names) and tell what to expect of each file.

    Parameters
    ----------
    folder
        Empty or not yet there. Beside it a file ``outside.jpg`` is written that a link leads to.
    """
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    items = []
    for name, data in _sound():
        (folder / "cat" / name).write_bytes(data)
        items.append(ZooItem(f"cat/{name}", "ok"))
    for name, data, reason in _unsound():
        (folder / "cat" / name).write_bytes(data)
        items.append(ZooItem(f"cat/{name}", "quarantined", reason))
    return items + _special_files(folder) + _odd_names(folder)


def picture(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _sound() -> Iterator[tuple[str, bytes]]:
    yield "plain.jpg", encode(picture(1), "JPEG")
    yield "progressive.jpg", encode(picture(2), "JPEG", progressive=True)
    yield "grey.jpg", encode(picture(3, "L"), "JPEG")
    yield "cmyk.jpg", encode(picture(4, "CMYK"), "JPEG")
    yield "cmyk.tif", encode(picture(5, "CMYK"), "TIFF")
    yield "one-bit.png", encode(picture(6, "1"), "PNG")
    yield "palette.png", encode(picture(7, "P"), "PNG")
    yield "palette-alpha.png", encode(picture(8, "P"), "PNG", transparency=bytes(range(256)))
    yield "la.png", encode(picture(9, "LA"), "PNG")
    yield "rgba.png", encode(_with_alpha(picture(10)), "PNG")
    yield "colour-key.png", encode(picture(11), "PNG", transparency=(0, 0, 0))
    yield "grey16.png", encode(_grey16(), "PNG")
    yield "grey16.tif", encode(_grey16(), "TIFF")
    yield "rgb16.png", _rgb16_png()
    yield "single.gif", encode(picture(12, "P"), "GIF")
    yield "picture.webp", encode(picture(13), "WEBP")
    yield "picture.bmp", encode(picture(14), "BMP")
    yield "lzw.tiff", encode(picture(15), "TIFF", compression="tiff_lzw")
    yield "phone.jpg", encode(picture(16), "MPO", save_all=True, append_images=[picture(17)])
    yield "png-named.jpg", encode(picture(18), "PNG")
    yield "jpeg-named.png", encode(picture(19), "JPEG")
    yield "bad-exif.jpg", encode(picture(20), "JPEG", exif=b"Exif\0\0no such thing")
    yield "1x1.png", encode(picture(21, size=(1, 1)), "PNG")
    yield "1x400.png", encode(picture(22, size=(1, 400)), "PNG")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        yield f"exif-{orientation}.jpg", encode(picture(30 + orientation), "JPEG", exif=exif)


def _unsound() -> Iterator[tuple[str, bytes, str]]:
    jpeg, png = encode(picture(50), "JPEG"), encode(picture(51), "PNG")
    yield "empty.jpg", b"", "file is empty"
    yield "page.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "not an image"
    yield "letters.png", b"hello", "not an image"
    yield "half.jpg", jpeg[: len(jpeg) // 2], "damaged"
    yield "half.png", png[: len(png) // 2], "damaged"
    yield "half.gif", _half(encode(picture(52, "P"), "GIF")), "damaged"
    yield "half.webp", _half(encode(picture(53), "WEBP")), ""
    yield "half.tif", _half(encode(picture(54), "TIFF")), ""
    yield "header-only.jpg", jpeg[:20], ""
    yield "flipped-bit.png", png[:200] + bytes([png[200] ^ 1]) + png[201:], "damaged"
    yield "bomb.png", _bomb(), "too many pixels"
    yield "animated.gif", encode(picture(55, "P"), "GIF", save_all=True, append_images=[picture(56, "P")]), "found 2"
    yield "animated.png", encode(picture(57), "PNG", save_all=True, append_images=[picture(58)]), "found 2"
    yield "pages.tif", encode(picture(59), "TIFF", save_all=True, append_images=[picture(60)] * 2), "found 3"
    yield "float.tif", encode(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF"), "mode F"
    yield "int32.tif", encode(Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)), "TIFF"), "mode I "
    yield "script.eps.png", encode(picture(61), "EPS"), "not an image"
    yield "notes.txt", b"my notes", "suffix of an image"


def _special_files(folder: Path) -> list[ZooItem]:
    """Links and pipes."""
    (folder.parent / "outside.jpg").write_bytes(encode(picture(70), "JPEG"))
    cat = folder / "cat"
    (cat / "link-out.jpg").symlink_to(folder.parent / "outside.jpg")
    (cat / "link-in.jpg").symlink_to("plain.jpg")
    (cat / "link-broken.jpg").symlink_to("no-such-file.jpg")
    (cat / "link-loop.jpg").symlink_to("link-loop.jpg")
    os.mkfifo(cat / "pipe.jpg")
    return [
        ZooItem("cat/link-out.jpg", "quarantined", "leads out of the data root"),
        ZooItem("cat/link-in.jpg", "ok"),
        ZooItem("cat/link-broken.jpg", "quarantined", "file not found"),
        ZooItem("cat/link-loop.jpg", "quarantined", "link"),
        ZooItem("cat/pipe.jpg", "quarantined", "not a regular file"),
    ]


def _odd_names(folder: Path) -> list[ZooItem]:
    names = [
        "with space.jpg",
        "'single' \"double\".jpg",
        "-rf.jpg",
        "a,b;c.jpg",
        "100%.jpg",
        "#{x}$(y).jpg",
        "UPPER.JPG",
    ]
    names += ["twin.jpg", "TWIN.jpg", "\U0001f63a.jpg", "x" * 236 + ".jpg", "dots.in.name.jpg", "caf\u00e9.jpg"]
    items = []
    for number, name in enumerate(names):
        (folder / "dog" / name).write_bytes(encode(picture(100 + number), "JPEG"))
        items.append(ZooItem(f"dog/{name}", "ok"))
    refused = {"cafe\u0301.jpg": "different Unicode form", "two\nlines.jpg": "control characters"}
    for name, reason in refused.items():
        (folder / "dog" / name).write_bytes(encode(picture(130), "JPEG"))
        items.append(ZooItem(f"dog/{name}", "quarantined", reason))
    (folder / "dog" / ".hidden.jpg").write_bytes(b"never listed")
    return items


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(picture(99, "L", image.size))
    return image


def _grey16() -> Image.Image:
    ramp = np.linspace(0, 65535, SIZE[0]).astype(np.uint16)
    return Image.fromarray(np.repeat(ramp[None], SIZE[1], axis=0))


def _rgb16_png() -> bytes:
    pixels = np.random.default_rng(1).integers(0, 65536, (4, 6, 3)).astype(">u2")
    return _png(6, 4, 16, b"".join(b"\0" + row.tobytes() for row in pixels))


def _bomb() -> bytes:
    """60 000 x 60 000 pixels by the header, and next to nothing in the file."""
    return _png(60_000, 60_000, 8, b"\0" * 1000)


def _png(width: int, height: int, bits: int, lines: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(lines), b"IEND": b""}
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
