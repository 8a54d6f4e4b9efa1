import numpy as np
import pandas as pd
import pytest

from methods.metrics import segmentation_metrics
from tasks.intervals import interval_rows
from tasks.metrics import pooled

WHERE = {"stage": "mask", "method": "m", "split": "val", "images": 30}


def _table(images: int, classes: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = [
        {"row": 7 * row, "truth": truth, "predicted": predicted, "count": int(random.integers(1, 50))}
        for row in range(images)
        for truth in range(classes)
        for predicted in [*range(classes), 255]
        if random.random() < 0.5
    ]
    return pd.DataFrame(rows)


class TestIntervalRows:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_around_the_pooled_value(self, seed: int) -> None:
        table = _table(30, 3, seed)
        found = {row.metric: row.value for row in interval_rows(table, 3, WHERE)}
        ratios = segmentation_metrics(pooled(table, 3))
        for metric in ("miou", "fg_iou_pooled"):
            assert found[f"{metric}_low"] < float(ratios[metric]) < found[f"{metric}_high"]

    def test_equal_images_have_no_spread(self) -> None:
        one = _table(1, 3, 5)
        table = pd.concat([one.assign(row=row) for row in range(6)])
        found = {row.metric: row.value for row in interval_rows(table, 3, WHERE)}
        expected = float(segmentation_metrics(pooled(one, 3))["miou"])
        np.testing.assert_allclose([found["miou_low"], found["miou_high"]], expected)

    def test_is_the_same_every_time(self) -> None:
        table = _table(12, 4, 9)
        assert interval_rows(table, 4, WHERE) == interval_rows(table, 4, WHERE)

    def test_one_image_has_none(self) -> None:
        assert interval_rows(_table(1, 3, 0), 3, WHERE) == []
