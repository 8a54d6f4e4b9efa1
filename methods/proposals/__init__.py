"""Proposals: where objects may be, from the attention of transformers and from boxes, and pixels drawn from them.

Tensors in, tensors out. Networks come from outside, and so does the generator that draws.
"""

from methods.proposals.cls_attention import attention_matrix, cls_attention, head_maps, mean_and_heads
from methods.proposals.pixel_seeds import IGNORE, sample_seeds, seed_regions
from methods.proposals.position_grid import position_grid
from methods.proposals.region_boxes import RegionBoxes, all_boxes, footprint, propose_boxes
from methods.proposals.sample_pixels import sample_pixels
from methods.proposals.score_boxes import blur, outside_blurred, score_boxes
from methods.proposals.token_attention_map import token_attention, token_attention_map
from methods.proposals.token_features import token_features

__all__ = [
    "IGNORE",
    "RegionBoxes",
    "all_boxes",
    "attention_matrix",
    "blur",
    "cls_attention",
    "footprint",
    "head_maps",
    "mean_and_heads",
    "outside_blurred",
    "position_grid",
    "propose_boxes",
    "sample_pixels",
    "sample_seeds",
    "score_boxes",
    "seed_regions",
    "token_attention",
    "token_attention_map",
    "token_features",
]
