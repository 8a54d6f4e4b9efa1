"""Image files to RGB pixels, by rules that are the same for every file: read whole, checked first, refused aloud.

Whatever is wrong with a file ends in :class:`ImageRefused` with a reason, never in other pixels than were meant.
"""

import errno
import io
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from storage.quiet import ignore_warnings_of

MAX_BYTES = 512 << 20
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read, told by content and not by suffix. Others (EPS starts a program) are no images here."""
_EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class ImageRefused(ValueError):  # noqa: N818 - a verdict on a file, not a fault of the program
    """A file that is not used; the message is the reason, without the file's name."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A decoded image in its own mode, turned upright; ``mode`` and ``orientation`` (1..8) are as in the file."""

    image: Image.Image
    mode: str
    orientation: int


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels ``(H, W, 3)`` uint8 RGB, upright; ``mode`` and ``orientation`` (1..8) are as in the file."""

    pixels: npt.NDArray[np.uint8]
    mode: str
    orientation: int


def read_bytes(root: Path, relative: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file below ``root``.

    Parameters
    ----------
    root
        Folder that must hold the file, after links are followed.
    relative
        Path below it, with forward slashes.
    max_bytes
        Larger files are refused before they are read.

    Raises
    ------
    ImageRefused
        No such file, a path or link that leads out of ``root``, something other than a regular file (a pipe would
        block), a file that is too large or may not be read.
    """
    parts = PurePosixPath(relative).parts
    if not parts or "\0" in relative or ".." in parts or PurePosixPath(relative).is_absolute():
        raise ImageRefused(f"expected a path below the data root, saw {relative!r}")
    try:
        base = root.resolve()
        path = (base / relative).resolve(strict=True)
        if not path.is_relative_to(base):
            raise ImageRefused(f"{relative!r} is a link that leads out of the data root")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageRefused(f"{relative!r} is not a regular file")
        if status.st_size > max_bytes:
            raise ImageRefused(f"expected at most {max_bytes} bytes, saw {status.st_size}")
        with path.open("rb") as file:
            return file.read(max_bytes)
    except FileNotFoundError:
        raise ImageRefused(f"file not found: {relative!r}") from None
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise ImageRefused(f"{relative!r} is a loop of links") from error
    except OSError as error:
        # A process that is short of something says nothing about the file.
        if error.errno in _SHORTAGES:
            raise
        raise ImageRefused(f"{relative!r} cannot be read: {error.strerror or error}") from error


def load_upright(data: bytes, max_pixels: int) -> Loaded:
    """Decode a file in its own mode and apply its EXIF orientation; :func:`decode_image` tells what is refused.

    Raises
    ------
    ImageRefused
        The file cannot be used.
    """
    if not data:
        raise ImageRefused("not an image: the file is empty")
    ignore_warnings_of("PIL")
    try:
        return _load(data, max_pixels)
    except ImageRefused:
        raise
    except UnidentifiedImageError:
        raise ImageRefused(f"not an image, or its header is damaged: the file begins with {data[:16]!r}") from None
    except Image.DecompressionBombError as error:
        raise ImageRefused(f"too many pixels: {error}") from error
    except Exception as error:
        # Decoders fail in many ways on damaged files (OSError, SyntaxError, ValueError, struct.error, MemoryError).
        raise ImageRefused(f"damaged: {str(error) or type(error).__name__}") from error


def decode_image(data: bytes, max_pixels: int) -> DecodedImage:
    """Decode a file to upright RGB.

    * The content decides the format, not the suffix; only :data:`FORMATS` are read.
    * The pixel count in the header is checked before anything is decoded. Pillow's own limit of 179 million pixels
      stands above ``max_pixels``.
    * The whole file is decoded; what ends early is refused (Pillow's ``LOAD_TRUNCATED_IMAGES`` stays off), and so is
      a PNG file whose checksums are wrong.
    * EXIF orientation is applied; one that cannot be read counts as upright.
    * Grey of 16 bits is scaled so that 65535 becomes 255. Colour of 16 bits keeps its upper byte.
    * Integers of 32 bits and floats are refused: their file does not say which value is white.
    * Grey, 1-bit and palette become RGB; CMYK becomes RGB without a colour profile.
    * Alpha, and colours marked transparent, are laid over black.
    * More than one frame or page is refused, except further pictures in a phone's JPEG (MPO), which are left out.

    Parameters
    ----------
    data
        The file's bytes.
    max_pixels
        Largest accepted width times height.

    Returns
    -------
    DecodedImage
        Writable pixels of its own.

    Raises
    ------
    ImageRefused
        The file cannot be used; the message says why.

    Examples
    --------
    >>> file = io.BytesIO()
    >>> Image.new("LA", (2, 1), (200, 128)).save(file, "PNG")
    >>> image = decode_image(file.getvalue(), max_pixels=100)
    >>> image.mode, image.pixels.tolist()
    ('LA', [[[100, 100, 100], [100, 100, 100]]])
    """
    loaded = load_upright(data, max_pixels)
    try:
        pixels = _to_rgb(loaded.image)
    except ImageRefused:
        raise
    except Exception as error:
        raise ImageRefused(f"cannot be turned into RGB from mode {loaded.mode}: {error}") from error
    return DecodedImage(pixels, loaded.mode, loaded.orientation)


def read_image(root: Path, relative: str, max_pixels: int) -> DecodedImage:
    """Read and decode a file below ``root``: :func:`read_bytes`, then :func:`decode_image`."""
    return decode_image(read_bytes(root, relative), max_pixels)


def _load(data: bytes, max_pixels: int) -> Loaded:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_pixels(image, max_pixels)
        if image.format == "PNG":
            _check_sums(data)
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames != 1:
            raise ImageRefused(f"expected one frame, found {frames}")
        mode = "I;16" if image.format == "PPM" and image.mode == "I" else image.mode
        # Before load: TIFF files are turned by Pillow while they load, and then no longer say so.
        orientation = _orientation(image)
        turned = image.format == "TIFF" and orientation != 1
        image.load()
        _check_pixels(image, max_pixels)
        upright = image if turned or orientation == 1 else image.transpose(_TURNS[orientation])
        if mode == "I;16":
            upright = _sixteen_bit(upright)
        # Outlives the file that it was read from; keeps palette and transparency.
        return Loaded(upright.copy(), mode, orientation)


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageRefused(f"too many pixels: expected at most {max_pixels}, saw {image.width} x {image.height}")


def _check_sums(data: bytes) -> None:
    """Pillow decodes PNG files without looking at their checksums: a flipped bit would pass as another picture."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return int(value) if value in _TURNS else 1


def _sixteen_bit(image: Image.Image) -> Image.Image:
    """The same for all byte orders, and for PGM files, whose grey Pillow stretches to 0..65535 in 32 bits."""
    return Image.fromarray(np.asarray(image).astype(np.uint16))


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode not in _EIGHT_BIT:
        raise ImageRefused(f"mode {image.mode} has no stated range; save the image with 8 or 16 bits")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))
