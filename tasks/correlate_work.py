"""Self-correlation of stored maps with the classifier's features, for maps that another network made."""

import time
from dataclasses import replace

import torch

from configs import RunConfig
from configs.refine import ScgStep
from methods.activation import record
from methods.networks import ClassifierNetwork
from storage.faults import dying_point
from storage.index import ImageIndex
from storage.stages import FACTS, StageFolder
from tasks.context import FolderWork
from tasks.correlate import Correlator
from tasks.findings import PAIRS, Findings
from tasks.images import ImageSource, to_input
from tasks.network import as_computed
from tasks.propose import SCORE
from tasks.refine import PairMaps


class CorrelateWork(FolderWork):
    """Correlated maps of one proposal, shard by shard."""

    title = "correlate"

    def __init__(
        self,
        config: RunConfig,
        index: ImageIndex,
        network: ClassifierNetwork,
        source: ImageSource,
        device: torch.device,
        step: ScgStep,
        proposal: StageFolder,
        folder: StageFolder,
    ) -> None:
        self.config, self.index, self.network, self.source, self.device = config, index, network, source, device
        self.correlator, self.proposal, self.folder = Correlator(network, step), proposal, folder
        self.shards = index.shards(config.runtime.shard_images)

    def __call__(self, shard: int) -> None:
        """Correlate one shard."""
        began = time.monotonic()
        known = PairMaps(self.proposal, shard)
        found = Findings(self.index, multi_label=True)
        classifier, name = self.config.classifier, self.folder.name
        grid = (self.proposal.spec(SCORE).item[0], self.proposal.spec(SCORE).item[1])
        left_out = self.left_out(shard)
        rows = sorted(row for row in known.by_row if row not in left_out)
        for group, images in self.source.batches(rows, classifier.input_size, classifier.batch_size):
            ready = as_computed(to_input(images, classifier.normalise, self.device), self.config.runtime)
            none = torch.zeros(0, 2, dtype=torch.int64)
            seen = record(self.network.model, ready, none, self.correlator.layers, allow_zero_gradients=True)
            maps = torch.cat([known.maps(row, grid) for row in group]).to(self.device)
            spread = self.correlator(replace(seen, pairs=found.pairs(group)), {name: maps})
            found.add(group, seen.logits, spread)
        found.leave_out([row for row in known.by_row if row in left_out], {name: self.folder.spec(SCORE).item})
        dying_point("infer")
        room = self.folder.spec(SCORE).shard_rows
        table = found.pair_table(name, shard * room) if known.by_row else PAIRS.empty_table()
        self.folder.write(
            shard,
            arrays={SCORE: (shard, found.maps(name, self.folder.spec(SCORE).item))},
            tables={FACTS: table},
            began=began,
            device=str(self.device),
        )
