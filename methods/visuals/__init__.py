"""Pictures for people: arrays of pixels in, arrays of pixels out, numpy only.

Nothing here measures or decides, and nothing is written to disk.
"""

from methods.visuals.overlay import heat, outline, overlay, voc_palette

__all__ = ["heat", "outline", "overlay", "voc_palette"]
