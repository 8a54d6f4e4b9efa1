"""What trainings share that is no network and no loss: tensors in, tensors out.

Views and tiles of images, mixing of batches, labels of pairs of pixels, and schedules. Losses may use what is here,
never the other way round. Holds no loop over a data set, no files and no configuration objects.
"""

from methods.training.affinity_labels import PairGridError, PairLabels, join_labels, label_maps, pair_labels
from methods.training.alpha import alpha
from methods.training.clean_labels import clean_labels
from methods.training.edge_predict_mix import Mixed, draw_partners, mix
from methods.training.edge_predict_targets import edge_predict_targets
from methods.training.multi_crop import Jitter, multi_crop
from methods.training.poly import parameter_groups, poly_optimizer, poly_schedule
from methods.training.recurseed_target import over_present, recurseed_target, target_labels
from methods.training.tiles import TileError, merge, tile

__all__ = [
    "Jitter",
    "Mixed",
    "PairGridError",
    "PairLabels",
    "TileError",
    "alpha",
    "clean_labels",
    "draw_partners",
    "edge_predict_targets",
    "join_labels",
    "label_maps",
    "merge",
    "mix",
    "multi_crop",
    "over_present",
    "pair_labels",
    "parameter_groups",
    "poly_optimizer",
    "poly_schedule",
    "recurseed_target",
    "target_labels",
    "tile",
]
