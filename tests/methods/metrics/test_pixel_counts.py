from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from methods.metrics.pixel_counts import (
    class_counts,
    foreground_counts,
    image_counts,
    image_foreground_counts,
    pair_counts,
)

Golden = Callable[[str], dict[str, Any]]


class TestPairCounts:
    def test_smoke(self) -> None:
        counts = pair_counts(np.zeros((2, 3), np.uint8), np.ones((2, 3), np.uint8), 4)
        assert counts.shape == (4, 5)
        assert counts.dtype == np.int64
        assert counts[1, 0] == counts.sum() == 6

    def test_by_hand(self) -> None:
        predicted, truth = np.array([0, 1, 2, 255, 2, 1]), np.array([0, 0, 2, 1, 255, 2])
        assert pair_counts(predicted, truth, 3).tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]

    def test_tensors_and_arrays_agree(self) -> None:
        predicted, truth = torch.randint(0, 5, (2, 50), dtype=torch.uint8)
        expected = pair_counts(predicted.numpy(), truth.numpy(), 5)
        assert np.array_equal(pair_counts(predicted, truth, 5), expected)
        assert np.array_equal(pair_counts(predicted.long(), truth.reshape(50), 5), expected)

    def test_another_ignore_value(self) -> None:
        assert pair_counts(np.array([0, 9, 1]), np.array([9, 1, 1]), 2, ignore=9).tolist() == [[0, 0, 0], [0, 1, 1]]

    def test_refuses_predicted_ids_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r"predicted class ids 0 to 2 or 255, found \[3, 7\]"):
            pair_counts(np.array([0, 3, 7]), np.array([0, 255, 1]), 3)

    def test_refuses_true_ids_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r"true class ids 0 to 2 or 255, found \[3\]"):
            pair_counts(np.array([0]), np.array([3]), 3)

    def test_refuses_shapes_that_differ(self) -> None:
        with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(3, 2\)"):
            pair_counts(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)


class TestImageCounts:
    def test_golden(self, golden: Golden) -> None:
        case = golden("segmetrics")
        counts = image_counts(case["pred"], case["gt"], 6)
        assert counts.shape == (5, 6, 3)
        for i, name in enumerate(["conf_P", "conf_T", "conf_TP"]):
            assert counts[..., i].sum(axis=0).tolist() == case[name].tolist()

    def test_golden_foreground(self, golden: Golden) -> None:
        case = golden("segmetrics")
        counts = image_foreground_counts(torch.from_numpy(case["pred"]), torch.from_numpy(case["gt"]), 6)
        assert counts.sum(axis=0).tolist() == case["binary_tp_fp_fn_tn"].tolist()
        tp, fp, fn, _ = counts.T
        np.testing.assert_allclose(tp / (tp + fp + fn), case["binary_iou_per_image"], atol=1e-9)

    def test_unlabelled_is_not_foreground(self) -> None:
        counts = pair_counts(np.array([255, 255]), np.array([0, 1]), 2)
        assert foreground_counts(counts).tolist() == [0, 0, 1, 1]
        assert class_counts(counts).tolist() == [[0, 1, 0], [0, 1, 0]]

    def test_no_image(self) -> None:
        empty = np.zeros((0, 4, 4), np.uint8)
        assert image_counts(empty, empty, 3).shape == (0, 3, 3)
        assert image_foreground_counts(empty, empty, 3).shape == (0, 4)

    def test_refuses_shapes_that_differ(self) -> None:
        with pytest.raises(ValueError, match=r"\(B, \.\.\.\) of one shape, got \(2, 3\) and \(1, 3\)"):
            image_counts(np.zeros((2, 3), np.uint8), np.zeros((1, 3), np.uint8), 2)
