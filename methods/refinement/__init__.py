"""Refinement: soft maps made better, and made into labels.

Every function takes and gives tensors of one image or one batch. Where maps come from and where labels go is not known
here.
"""

from methods.refinement.canny import canny
from methods.refinement.certain_filter import certain_filter
from methods.refinement.clean_up import clean_up
from methods.refinement.component_boxes import component_boxes
from methods.refinement.dense_crf import DenseCrfMissingError, dense_crf, require_pydensecrf
from methods.refinement.edge_predict import edge_predict, super_pixels
from methods.refinement.merge_classes import merge_classes
from methods.refinement.otsu import otsu_masks, otsu_thresholds, quantise
from methods.refinement.pamr import pamr
from methods.refinement.random_walk import path_affinities, random_walk
from methods.refinement.scg import scg
from methods.refinement.self_correlation import (
    RECURSEED,
    SLIDES,
    SPA_CUB,
    SPA_ILSVRC,
    ScgConstants,
    correlate_levels,
    self_correlation,
)

__all__ = [
    "RECURSEED",
    "SLIDES",
    "SPA_CUB",
    "SPA_ILSVRC",
    "DenseCrfMissingError",
    "ScgConstants",
    "canny",
    "certain_filter",
    "clean_up",
    "component_boxes",
    "correlate_levels",
    "dense_crf",
    "edge_predict",
    "merge_classes",
    "otsu_masks",
    "otsu_thresholds",
    "pamr",
    "path_affinities",
    "quantise",
    "random_walk",
    "require_pydensecrf",
    "scg",
    "self_correlation",
    "super_pixels",
]
