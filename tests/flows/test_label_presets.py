"""Presets that learn from image-level labels and masks, run through on small data in the layout they are made for."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from storage.demo_data import make_demo
from tests.flows.launcher import Launcher

LONGEST = 600
"""Seconds that the longest chain may take."""
SMALL = (
    "classifier.backbone=small",
    "classifier.weights=none",
    "classifier.keep_stride=[]",
    "classifier.input_size=64",
    "classifier.train.epochs=1",
    "classifier.train.batch_size=2",
    "proposals.0.scales=[1.0, 0.5]",
    "runtime.device=cpu",
    "runtime.threads=1",
    "report.overlays=1",
)
NETWORK = (
    "weights=none",
    "keep_stride=[]",
    "width=16",
    "optimise.epochs=2",
    "optimise.batch_size=2",
    "inference.scales=[1.0, 0.5]",
)


def of(place: int, *options: str) -> list[str]:
    """Overrides of one training."""
    return [f"train.{place}.{one}" for one in options]


CHAINS: dict[str, list[str]] = {
    "puzzle": [*of(0, "optimise.epochs=2", "optimise.batch_size=2", "radius=5"), *of(1, *NETWORK)],
    "recurseed": [
        *of(0, *NETWORK, "optimise.epochs=3", "start=1", "mix.start=2"),
        *of(1, *NETWORK),
        *of(2, *NETWORK),
    ],
}


def picture(number: int, value: int) -> tuple[Image.Image, Image.Image]:
    """An image with a bright square, and its mask."""
    generator = np.random.default_rng(number)
    pixels = generator.integers(0, 90, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    top, left = generator.integers(4, 28, 2)
    pixels[top : top + 28, left : left + 28, value % 3] += 150
    mask[top : top + 28, left : left + 28] = value
    return Image.fromarray(pixels), Image.fromarray(mask)


def make_voc(root: Path) -> None:
    """Four training and two validation images of two classes in VOC's folders."""
    for folder in ("ImageSets/Segmentation", "JPEGImages", "Annotations", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
    names = {"train_aug": ["a", "b", "c", "d"], "val": ["e", "f"]}
    for split, some in names.items():
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{one}\n" for one in some))
    for number, name in enumerate("abcdef"):
        value, label = ((8, "cat"), (12, "dog"))[number % 2]
        image, mask = picture(number, value)
        image.save(root / f"JPEGImages/{name}.jpg")
        mask.save(root / f"SegmentationClass/{name}.png")
        (root / f"Annotations/{name}.xml").write_text(f"<annotation><object><name>{label}</name></object></annotation>")


def make_coco(root: Path) -> None:
    """The same with COCO's polygons."""
    (root / "annotations").mkdir()
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    for split, numbers in (("train2014", range(4)), ("val2014", range(4, 6))):
        (root / split).mkdir()
        images, annotations = [], []
        for number in numbers:
            image, mask = picture(number, 1 + number % 2)
            image.save(root / split / f"{number}.jpg")
            rows, columns = (np.flatnonzero(np.asarray(mask).any(axis=axis)) for axis in (1, 0))
            x0, y0, x1, y1 = (int(one) for one in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            images.append({"id": number, "file_name": f"{number}.jpg", "height": 64, "width": 64})
            polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
            about = {"image_id": number, "category_id": 17 + number % 2, "iscrowd": 0}
            annotations.append({"id": number + 1, "segmentation": polygon, **about})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def run(maskmill: Launcher, preset: str, folder: Path, overrides: list[str]) -> pd.DataFrame:
    """Metric rows of a preset that ran through."""
    sets = [part for one in overrides for part in ("--set", one)]
    done = maskmill.start("run", f"preset:{preset}", "-w", folder / "w", *sets)
    assert done.wait(LONGEST) == 0, done.err
    (report,) = (folder / "w" / "reports").iterdir()
    frame: pd.DataFrame = pq.ParquetFile(report / "metrics.parquet").read().to_pandas()
    return frame


@pytest.mark.slow
class TestPaperPresets:
    @pytest.mark.parametrize(
        ("preset", "methods"),
        [
            ("puzzle-voc2012", ["multi_scale_cam", "walk", "deeplabv3plus-walk"]),
            ("recurseed-voc2012", ["RecurSeed + EdgePredictMix", "DeepLabv3+ on RecurSeed"]),
            ("recurseed-coco2014", ["RecurSeed + EdgePredictMix", "DeepLabv3+ on the ground truth"]),
        ],
    )
    def test_runs_through(self, maskmill: Launcher, tmp_path: Path, preset: str, methods: list[str]) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (make_coco if "coco" in preset else make_voc)(data)
        frame = run(maskmill, preset, tmp_path, [f"dataset.root={data}", *SMALL, *CHAINS[preset.partition("-")[0]]])
        found = frame[(frame["stage"] == "mask") & (frame["metric"] == "miou")]
        assert set(methods) <= set(found["method"])
        assert found["value"].between(0, 1).all()
        for model in (tmp_path / "w" / "models").glob("segmenter-*"):
            history = pq.ParquetFile(model / "history.parquet").read().to_pandas()
            assert np.isfinite(history["loss"]).all()

    def test_terms_of_recurseed_begin_in_their_epochs(self, maskmill: Launcher, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.mkdir()
        make_voc(data)
        run(maskmill, "recurseed-voc2012", tmp_path, [f"dataset.root={data}", *SMALL, *CHAINS["recurseed"]])
        histories = [
            pq.ParquetFile(path).read().to_pandas() for path in (tmp_path / "w" / "models").glob("seg*/history.parquet")
        ]
        (history,) = [one for one in histories if "reconstruction" in one]
        assert history["epoch"].tolist() == [1, 2, 3]
        assert history["reconstruction"].isna().tolist() == [True, False, False]
        assert history["mix_segmentation"].isna().tolist() == [True, True, False]


@pytest.mark.slow
class TestSmallPreset:
    @pytest.mark.timeout(LONGEST + 60)
    def test_whole_chain_on_the_demo_data(self, maskmill: Launcher, tmp_path: Path) -> None:
        """Fewer images than the demo has, for the time that one thread takes."""
        data = make_demo(tmp_path / "demo", images=80)
        frame = run(
            maskmill, "recurseed-small", tmp_path, [f"dataset.root={data}", "runtime.device=cpu", "runtime.threads=1"]
        )
        part = frame[(frame["stage"] == "mask") & (frame["metric"] == "miou") & (frame["split"] == "val")]
        scores = part.set_index("method")["value"]
        learned = ["recurseed", "deeplab on recurseed", "deeplab on the ground truth", "deeplab round 1"]
        assert set(learned) <= set(scores.index)
        assert scores.between(0, 1).all()
        # So few images teach little: what looks at them must still beat what looks at none.
        assert scores["recurseed"] > scores["whole_image"]
        assert scores["deeplab round 1"] > scores["whole_image"]
        (page,) = (tmp_path / "w" / "reports").glob("*/report.html")
        assert "Rounds of recursion" in page.read_text()
