"""Ground truth of one image as class ids: 0 background, 1..C class, 255 ignore, whatever way the data set writes it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage.decode import DecodedImage, ImageRefused, Loaded, decode_image, load_upright, read_bytes
from storage.exporters.palette import voc_palette
from storage.files import canonical_json, digest
from storage.instance_files import draw_files, mask_paths, nearest
from storage.instances import draw_instances
from storage.samples import MaskSource, StagingError

IGNORE = 255
_INDEX_MODES = ("1", "L", "P", "I", "I;16")
_HALF = 127

Mask = npt.NDArray[np.uint8]


def read_truth(
    root: Path,
    mask: MaskSource,
    *,
    classes: tuple[str, ...],
    labels: tuple[str, ...],
    size: tuple[int, int],
    source: str,
    max_pixels: int,
) -> Mask:
    """Read a mask and check it against its image.

    Parameters
    ----------
    root
        Data root that ``mask.path`` is relative to.
    mask
        Where the truth is and how it is written, see :class:`storage.samples.MaskSource`.
    classes
        Names in the order of their ids 1..C.
    labels
        The image's own labels. A binary mask needs exactly one, or none where it is empty; mask files need one.
    size
        Height and width of the upright image; a mask is turned by its own EXIF orientation first.
    source
        File and row that name the image, for messages.
    max_pixels
        Cap for the mask's header.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` uint8: 0 background, 1..C, 255 ignore.

    Raises
    ------
    StagingError
        A mask that cannot be read, has another size than its image (mask files: another shape), holds a value or
        colour that is no class, or is binary for an image with several labels.
    """
    if mask.kind == "files":
        if len(labels) != 1:
            raise StagingError(
                f"{source}: expected one label for masks without classes, saw {', '.join(labels) or 'none'}"
            )
        number = classes.index(labels[0]) + 1
        return draw_files(root, mask, size, class_id=number, source=source, max_pixels=max_pixels)
    if mask.kind == "coco":
        return draw_instances(mask.text, size, classes=len(classes), source=source)
    truth = read_class_ids(root, mask, classes=classes, labels=labels, source=source, max_pixels=max_pixels)
    if truth.shape != size:
        raise StagingError(
            f"{source}: mask {mask.path}: expected the image's size {size[1]} x {size[0]}, "
            f"saw {truth.shape[1]} x {truth.shape[0]}"
        )
    return truth


def localization_truth(truth: Mask, side: int = 224) -> Mask:
    """A mask as pixel metrics of localization want it: 1 foreground of any class, 0 background, 255 ignore.

    Parameters
    ----------
    truth
        ``(H, W)`` uint8: 0 background, 1..C, 255 ignore.
    side
        Rows and columns of the result; row i is row floor(i H / side) of the mask, columns likewise.

    References
    ----------
    Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020: nearest neighbour to 224.

    Examples
    --------
    >>> localization_truth(np.array([[0, 7], [255, 2]], np.uint8), side=2).tolist()
    [[0, 1], [255, 1]]
    """
    coarse = nearest(truth, (side, side))
    return np.where(coarse == IGNORE, IGNORE, coarse > 0).astype(np.uint8)


def mask_digest(root: Path, mask: MaskSource, source: str) -> str:
    """SHA-256 over all that a mask is made from; ``source`` names the image.

    Raises
    ------
    StagingError
        A file that cannot be read.
    """
    if mask.kind == "coco":
        return digest(mask.text.encode())
    hashes = []
    for path in mask_paths(mask):
        try:
            hashes.append(digest(read_bytes(root, path)))
        except ImageRefused as refusal:
            raise StagingError(f"{source}: mask {path}: {refusal}") from refusal
    return hashes[0] if mask.kind != "files" else digest(canonical_json([mask.text, hashes]))


def read_class_ids(
    root: Path,
    mask: MaskSource,
    *,
    classes: Sequence[str],
    labels: Sequence[str] | None,
    source: str,
    max_pixels: int,
) -> Mask:
    """Class ids of a mask file at its own size; ``labels`` None where the mask is what tells them.

    Raises
    ------
    StagingError
        As :func:`read_truth`, except for the size.
    """
    where = f"{source}: mask {mask.path}"
    try:
        data = read_bytes(root, mask.path)
        loaded = load_upright(data, max_pixels)
        by_value = mask.kind == "index" or (mask.kind == "voc_auto" and loaded.mode in _INDEX_MODES)
        if by_value:
            return _from_values(loaded, mask, len(classes), labels, where)
        decoded = decode_image(data, max_pixels)
    except ImageRefused as refusal:
        raise StagingError(f"{where}: {refusal}") from refusal
    if mask.kind == "binary":
        return _from_binary(decoded, classes, labels, where)
    return _from_colours(decoded, len(classes), where)


def _from_values(loaded: Loaded, mask: MaskSource, count: int, labels: Sequence[str] | None, where: str) -> Mask:
    if loaded.mode not in _INDEX_MODES:
        raise StagingError(
            f"{where}: expected a palette or grey image of class ids, saw mode {loaded.mode}; "
            "masks in VOC colours need format voc with palette: rgb"
        )
    values = np.asarray(loaded.image).astype(np.int64)
    seen = np.unique(values).tolist()
    # VOC marks objects that are too hard as ignore, so that a mask may show nothing else.
    if mask.kind == "index" and labels and IGNORE in seen and set(seen) <= {0, IGNORE}:
        raise StagingError(
            f"{where}: expected class ids 1..{count}, saw only 0 and 255 in an image labelled {', '.join(labels)}; "
            "it looks like a 0/255 mask: set dataset.mask_values: binary"
        )
    if wrong := [value for value in seen if not (0 <= value <= count or value == IGNORE)]:
        raise StagingError(
            f"{where}: expected 0, class ids 1..{count} or 255, saw {', '.join(map(str, wrong[:5]))} "
            f"({int(np.isin(values, wrong).sum())} pixels); dataset.classes must name every id in order"
        )
    return values.astype(np.uint8)


def _from_binary(decoded: DecodedImage, classes: Sequence[str], labels: Sequence[str] | None, where: str) -> Mask:
    # The strongest channel, so that red on black is foreground as white on black is.
    brightness = decoded.pixels.max(axis=2)
    object_pixels = brightness > _HALF
    if brightness.max() == 1:
        raise StagingError(
            f"{where}: expected a binary mask (above {_HALF} is the object), saw only 0 and 1; "
            "set dataset.mask_values: index"
        )
    labels = classes[:1] if labels is None else labels
    if len(labels) > 1:
        raise StagingError(
            f"{where}: a binary mask cannot tell {len(labels)} labels apart ({', '.join(labels)}); "
            "expected an image with one label, or an index mask"
        )
    if not labels and object_pixels.any():
        raise StagingError(
            f"{where}: expected an empty mask for an image without a label, saw {int(object_pixels.sum())} "
            "object pixels"
        )
    number = classes.index(labels[0]) + 1 if labels else 0
    mask: Mask = np.where(object_pixels, number, 0).astype(np.uint8)
    return mask


def _from_colours(decoded: DecodedImage, count: int, where: str) -> Mask:
    codes = _codes(decoded.pixels)
    palette = _codes(voc_palette())
    order = np.argsort(palette)
    places = np.searchsorted(palette, codes, sorter=order).clip(0, len(palette) - 1)
    ids = order[places]
    wrong = palette[ids] != codes
    if wrong.any():
        y, x = (int(value) for value in np.argwhere(wrong)[0])
        raise StagingError(
            f"{where}: expected VOC colours, saw {tuple(decoded.pixels[y, x].tolist())} at x={x}, y={y} "
            f"({int(wrong.sum())} pixels with such colours)"
        )
    if (ids > count)[ids != IGNORE].any():
        first = int(ids[(ids > count) & (ids != IGNORE)][0])
        raise StagingError(
            f"{where}: expected colours of the ids 0..{count} or 255, saw the colour of id {first}; "
            "dataset.classes must name every id in order"
        )
    mask: Mask = ids.astype(np.uint8)
    return mask


def _codes(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    codes: npt.NDArray[np.int64] = red << 16 | green << 8 | blue
    return codes
