"""Class activation maps: from one recorded forward pass to a map per (image, class) pair.

Holds the recording of layers, the CAM family as pure functions over activations and gradients, truncation and fusion.
May use torch only. Holds no thresholds, no masks and no normalisation that a caller did not ask for.
"""

from methods.activation.errors import (
    GradientReachError,
    LayerCallError,
    LayerOutputError,
    LogitsError,
    OverwrittenLayerError,
    PairError,
    RecordingError,
    UnknownLayerError,
)
from methods.activation.fuse import fuse, min_max
from methods.activation.grad_cam import grad_cam
from methods.activation.layer_cam import layer_cam
from methods.activation.record import Record, record
from methods.activation.truncate import truncate

__all__ = [
    "GradientReachError",
    "LayerCallError",
    "LayerOutputError",
    "LogitsError",
    "OverwrittenLayerError",
    "PairError",
    "Record",
    "RecordingError",
    "UnknownLayerError",
    "fuse",
    "grad_cam",
    "layer_cam",
    "min_max",
    "record",
    "truncate",
]
