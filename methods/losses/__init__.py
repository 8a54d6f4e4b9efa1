"""Training losses: tensors in, a scalar with a gradient out. No files, no configuration objects."""

from methods.losses.bilateral import bilateral_filter
from methods.losses.classification import class_balance, classification_loss
from methods.losses.crf_loss import crf_loss
from methods.losses.lattice import Lattice, LatticeRangeError
from methods.losses.log_barrier import barrier_steepness, extended_log_barrier
from methods.losses.partial_cross_entropy import partial_cross_entropy
from methods.losses.size_loss import size_loss

__all__ = [
    "Lattice",
    "LatticeRangeError",
    "barrier_steepness",
    "bilateral_filter",
    "class_balance",
    "classification_loss",
    "crf_loss",
    "extended_log_barrier",
    "partial_cross_entropy",
    "size_loss",
]
