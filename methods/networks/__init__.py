"""Networks: classifiers with named stages, and how published weights get into them.

A file or a download is somebody else's: weights come in as state dicts. Only torchvision's own cache is asked, and
only when its weights are asked for by name. Training lives elsewhere.
"""

from methods.networks.affinity_net import AffinityNet
from methods.networks.aspp import ASPP
from methods.networks.backbones import BackboneError
from methods.networks.class_maps import ClassMapError, class_maps
from methods.networks.classifiers import build_classifier
from methods.networks.decoder import Decoder, DecoderHead
from methods.networks.decoder_network import DecoderNetwork, UNet
from methods.networks.deeplab_v3_plus import DeepLabV3Plus
from methods.networks.encoder import Encoder, EncoderError, encoder_layers
from methods.networks.fold import FoldError, fold_batch_norms
from methods.networks.joint_network import Joint, JointNetwork
from methods.networks.network import ClassifierNetwork, pooled_features, resolve_layers
from methods.networks.pointwise import hasten_pointwise
from methods.networks.segmenters import SEGMENTERS, build_segmenter, new_parts
from methods.networks.small import SmallNet
from methods.networks.stride import StrideError, keep_stride
from methods.networks.vgg16_wsol import Vgg16Wsol, build_vgg16_wsol
from methods.networks.vision_transformer import MINI, build_vit
from methods.networks.weights import WeightsError, load_backbone, load_classifier

__all__ = [
    "ASPP",
    "MINI",
    "SEGMENTERS",
    "AffinityNet",
    "BackboneError",
    "ClassMapError",
    "ClassifierNetwork",
    "Decoder",
    "DecoderHead",
    "DecoderNetwork",
    "DeepLabV3Plus",
    "Encoder",
    "EncoderError",
    "FoldError",
    "Joint",
    "JointNetwork",
    "SmallNet",
    "StrideError",
    "UNet",
    "Vgg16Wsol",
    "WeightsError",
    "build_classifier",
    "build_segmenter",
    "build_vgg16_wsol",
    "build_vit",
    "class_maps",
    "encoder_layers",
    "fold_batch_norms",
    "hasten_pointwise",
    "keep_stride",
    "load_backbone",
    "load_classifier",
    "new_parts",
    "pooled_features",
    "resolve_layers",
]
