"""Networks: classifiers with named stages, and how published weights get into them.

A file or a download is somebody else's: weights come in as state dicts. Only torchvision's own cache is asked, and
only when its weights are asked for by name. Training lives elsewhere.
"""

from methods.networks.backbones import BackboneError
from methods.networks.classifiers import build_classifier
from methods.networks.fold import FoldError, fold_batch_norms
from methods.networks.network import ClassifierNetwork, pooled_features, resolve_layers
from methods.networks.pointwise import hasten_pointwise
from methods.networks.small import SmallNet
from methods.networks.weights import WeightsError, load_backbone, load_classifier

__all__ = [
    "BackboneError",
    "ClassifierNetwork",
    "FoldError",
    "SmallNet",
    "WeightsError",
    "build_classifier",
    "fold_batch_norms",
    "hasten_pointwise",
    "load_backbone",
    "load_classifier",
    "pooled_features",
    "resolve_layers",
]
