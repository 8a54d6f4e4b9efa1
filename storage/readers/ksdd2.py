"""KolektorSDD2: ``<split>/NNNNN.png`` beside its mask ``NNNNN_GT.png``; an image with an empty mask has no label."""

from collections.abc import Iterator

from configs.dataset import Ksdd2Dataset
from storage.readers.listing import Classes, check_id, make_listing
from storage.samples import Listing, MaskSource, Sample, StagingError
from storage.truth import read_class_ids

_MASK = "_GT"
_COPY = "(copy)"
_SUFFIX = ".png"


def read_ksdd2(config: Ksdd2Dataset) -> Listing:
    """List KolektorSDD2, or a data set in its layout; ids are ``<split>/<number>``.

    Files with ``(copy)`` in their names are left out, as in the published lists. The masks are decoded here, since
    only they tell which images show a defect.

    Parameters
    ----------
    config
        Section ``dataset`` with ``format: ksdd2``. The class is ``classes[0]``, else ``defect``.

    Raises
    ------
    StagingError
        More than one class, a split folder that is not there, an image without a mask, a mask that cannot be read.
    """
    names = tuple(config.classes or ["defect"])
    if len(names) != 1:
        raise StagingError(f"dataset.classes: expected one class for format ksdd2, saw {', '.join(names)}")
    samples = [sample for split in config.split for sample in _split_samples(config, names, split)]
    return make_listing(samples, Classes(names), str(config.root))


def _split_samples(config: Ksdd2Dataset, names: tuple[str, ...], split: str) -> Iterator[Sample]:
    folder = config.root / split
    if not folder.is_dir():
        raise StagingError(f"{folder}: expected the folder of split {split!r}, found none; check dataset.root")
    files = {
        path.stem: path.name
        for path in folder.iterdir()
        if path.suffix.lower() == _SUFFIX and not path.name.startswith(".") and _COPY not in path.name
    }
    # Also an image that only its mask tells of: it will be quarantined, not forgotten.
    for name in sorted({stem.removesuffix(_MASK) for stem in files}):
        path = f"{split}/{files.get(name, name + _SUFFIX)}"
        mask = MaskSource("binary", f"{split}/{files.get(name + _MASK, name + _MASK + _SUFFIX)}")
        image_id = check_id(f"{split}/{name}", path)
        ids = read_class_ids(config.root, mask, classes=names, labels=None, source=path, max_pixels=config.max_pixels)
        yield Sample(image_id, path, split, names if ids.any() else (), path, mask=mask)
