"""What came, went and changed between two image indexes."""

from dataclasses import dataclass

from storage.index import ImageIndex

_COMPARED = ("split", "width", "height", "sha256", "labels", "status")


@dataclass(frozen=True, slots=True)
class News:
    """Ids of images that are new, gone, or the same in name only (contents, size, labels, split, fitness)."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many of each."""
        return {"added": len(self.added), "removed": len(self.removed), "changed": len(self.changed)}


def compare(before: ImageIndex, after: ImageIndex) -> News:
    """Compare two indexes image by image; the order of rows does not matter.

    Parameters
    ----------
    before, after
        The indexes.
    """
    old, new = _content(before), _content(after)
    return News(
        added=tuple(one for one in new if one not in old),
        removed=tuple(one for one in old if one not in new),
        changed=tuple(one for one in new if one in old and old[one] != new[one]),
    )


def _content(index: ImageIndex) -> dict[str, tuple[object, ...]]:
    columns = [index.table.column(name).to_pylist() for name in _COMPARED]
    return dict(zip(index.ids, zip(*columns), strict=True))
