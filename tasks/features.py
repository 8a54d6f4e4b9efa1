"""Features under the head of a frozen classifier, for the images it trains on."""

import time

import pyarrow as pa
import torch

from configs import RunConfig
from methods.networks import ClassifierNetwork, pooled_features
from storage.faults import dying_point
from storage.stages import FACTS, StageFolder
from tasks.context import FolderWork
from tasks.images import ImageSource, to_input

FEATURE_ROWS = pa.schema([("row", pa.int64()), ("feature", pa.list_(pa.float32()))])


class FeatureWork(FolderWork):
    """Features under the head of a frozen classifier, for the images it trains on."""

    title = "features"

    def __init__(
        self,
        config: RunConfig,
        network: ClassifierNetwork,
        source: ImageSource,
        device: torch.device,
        rows: list[int],
        folder: StageFolder,
    ) -> None:
        self.config, self.network, self.source, self.device, self.folder = config, network, source, device, folder
        size = config.runtime.shard_images
        self.groups = [rows[start : start + size] for start in range(0, len(rows), size)]

    def images(self, shard: int) -> list[int]:
        """Rows of one shard: those that train."""
        return self.groups[shard]

    def __call__(self, shard: int) -> None:
        """Compute the features of one shard; an image that is left out does not train."""
        began = time.monotonic()
        classifier = self.config.classifier
        rows, left_out = [], self.left_out(shard)
        seen = [row for row in self.images(shard) if row not in left_out]
        groups = self.source.batches(seen, classifier.input_size, classifier.batch_size)
        for group, images in groups:
            features = pooled_features(self.network, to_input(images, classifier.normalise, self.device)).cpu()
            rows += [{"row": row, "feature": features[place].tolist()} for place, row in enumerate(group)]
        dying_point("infer")
        self.folder.write(
            shard, tables={FACTS: pa.Table.from_pylist(rows, FEATURE_ROWS)}, began=began, device=str(self.device)
        )
