"""Readers: a data set as its author laid it out becomes a :class:`storage.samples.Listing`; images are not decoded."""

from configs.dataset import CocoDataset, Dataset, FolderDataset, Ksdd2Dataset, TableDataset, VocDataset, WsolDataset
from storage.readers.coco import read_coco
from storage.readers.folder import read_folder
from storage.readers.ksdd2 import read_ksdd2
from storage.readers.table import read_table
from storage.readers.voc import read_voc
from storage.readers.wsol import read_wsol
from storage.samples import Listing, StagingError

__all__ = ["read_coco", "read_dataset", "read_folder", "read_ksdd2", "read_table", "read_voc", "read_wsol"]


def read_dataset(config: Dataset) -> Listing:
    """List a data set of any format.

    Parameters
    ----------
    config
        Section ``dataset`` of a run.

    Returns
    -------
    Listing
        One sample for each image, ids unique and NFC, labels in class order.

    Raises
    ------
    StagingError
        The data set contradicts itself or its configuration; the message names file and row.
    """
    if not config.root.is_dir():
        raise StagingError(f"dataset.root: expected a folder, found none at {config.root}")
    match config:
        case VocDataset():
            return read_voc(config)
        case Ksdd2Dataset():
            return read_ksdd2(config)
        case FolderDataset():
            return read_folder(config)
        case TableDataset():
            return read_table(config)
        case CocoDataset():
            return read_coco(config)
        case WsolDataset():
            return read_wsol(config)
