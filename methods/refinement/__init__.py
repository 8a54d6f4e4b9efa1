"""Refinement: soft maps made better, and made into labels.

Every function takes and gives tensors of one image or one batch. Where maps come from and where labels go is not known
here.
"""

from methods.refinement.merge_classes import merge_classes
from methods.refinement.otsu import otsu_masks, otsu_thresholds, quantise

__all__ = ["merge_classes", "otsu_masks", "otsu_thresholds", "quantise"]
