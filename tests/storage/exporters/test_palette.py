import numpy as np

from storage.exporters.palette import voc_palette


class TestVocPalette:
    def test_smoke(self) -> None:
        assert voc_palette().shape == (256, 3)
        assert voc_palette().dtype == np.uint8

    def test_known_colours(self) -> None:
        # aeroplane, bicycle, person and tv monitor of the VOC devkit, and the border
        assert voc_palette()[[1, 2, 15, 20, 255]].tolist() == [
            [128, 0, 0],
            [0, 128, 0],
            [192, 128, 128],
            [0, 64, 128],
            [224, 224, 192],
        ]

    def test_colours_differ(self) -> None:
        assert len({tuple(colour) for colour in voc_palette().tolist()}) == 256
