"""Class activation maps: from one recorded forward pass to a map per (image, class) pair.

Holds the recording of layers, the CAM family as pure functions over activations and gradients, truncation and fusion.
May use torch only. Holds no thresholds, no masks and no normalisation that a caller did not ask for.
"""

from methods.activation.ablation_cam import ablation_cam
from methods.activation.class_activation_map import class_activation_map
from methods.activation.enlarge import enlarge
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
from methods.activation.full_grad import full_grad
from methods.activation.full_gradients import FullGradients, full_gradients
from methods.activation.fuse import fuse, min_max
from methods.activation.gating import confidence, gate_classes, labels_of, present_classes
from methods.activation.grad_cam import grad_cam
from methods.activation.grad_cam_plus_plus import grad_cam_plus_plus
from methods.activation.halving import OneRowMemoryError
from methods.activation.is_cam import is_cam
from methods.activation.layer_cam import layer_cam
from methods.activation.layer_maps import GradientMethod
from methods.activation.multi_scale import (
    Decoded,
    MultiScaleMaps,
    divided_by_maximum,
    multi_scale,
    multi_scale_decode,
)
from methods.activation.record import Record, record
from methods.activation.score_cam import score_cam
from methods.activation.smooth_grad_cam_plus_plus import smooth_grad_cam_plus_plus, smooth_noises
from methods.activation.soft_maps import Recipe, map_flags, soft_maps
from methods.activation.ss_cam import ss_cam
from methods.activation.truncate import truncate
from methods.activation.xgrad_cam import xgrad_cam

__all__ = [
    "Decoded",
    "FullGradients",
    "GradientMethod",
    "GradientReachError",
    "LayerCallError",
    "LayerOutputError",
    "LogitsError",
    "MultiScaleMaps",
    "OneRowMemoryError",
    "OverwrittenLayerError",
    "PairError",
    "Recipe",
    "Record",
    "RecordingError",
    "UnknownLayerError",
    "ablation_cam",
    "class_activation_map",
    "confidence",
    "divided_by_maximum",
    "enlarge",
    "full_grad",
    "full_gradients",
    "fuse",
    "gate_classes",
    "grad_cam",
    "grad_cam_plus_plus",
    "is_cam",
    "labels_of",
    "layer_cam",
    "map_flags",
    "min_max",
    "multi_scale",
    "multi_scale_decode",
    "present_classes",
    "record",
    "score_cam",
    "smooth_grad_cam_plus_plus",
    "smooth_noises",
    "soft_maps",
    "ss_cam",
    "truncate",
    "xgrad_cam",
]
