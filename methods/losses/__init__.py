"""Training losses: tensors in, a scalar with a gradient out. No files, no configuration objects."""

from methods.losses.affinity_loss import AffinityLosses, affinity_loss, pair_affinities
from methods.losses.bilateral import bilateral_filter
from methods.losses.classification import class_balance, classification_loss
from methods.losses.crf_loss import crf_loss
from methods.losses.lattice import Lattice, LatticeRangeError
from methods.losses.log_barrier import barrier_steepness, extended_log_barrier
from methods.losses.partial_cross_entropy import partial_cross_entropy
from methods.losses.puzzle_losses import PuzzleLosses, puzzle_losses
from methods.losses.recurseed_losses import RecurSeedLosses, recurseed_losses
from methods.losses.self_distillation import distillation_loss, distillation_terms, moved_centre
from methods.losses.size_loss import size_loss

__all__ = [
    "AffinityLosses",
    "Lattice",
    "LatticeRangeError",
    "PuzzleLosses",
    "RecurSeedLosses",
    "affinity_loss",
    "barrier_steepness",
    "bilateral_filter",
    "class_balance",
    "classification_loss",
    "crf_loss",
    "distillation_loss",
    "distillation_terms",
    "extended_log_barrier",
    "moved_centre",
    "pair_affinities",
    "partial_cross_entropy",
    "puzzle_losses",
    "recurseed_losses",
    "size_loss",
]
