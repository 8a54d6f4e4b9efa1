import numpy as np
import pytest
import torch

from methods.metrics.arrays import as_labels, mean_defined, ratio


class TestAsLabels:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.int32])
    def test_smoke(self, dtype: torch.dtype) -> None:
        labels = as_labels(torch.tensor([[0, 255]], dtype=dtype), "true")
        assert labels.dtype == np.uint8
        assert labels.tolist() == [[0, 255]]

    @pytest.mark.parametrize("value", [-1, 256])
    def test_refuses_what_would_wrap(self, value: int) -> None:
        with pytest.raises(ValueError, match=rf"true labels 0 to 255, got .*{value}"):
            as_labels(np.array([3, value]), "true")

    def test_refuses_scores(self) -> None:
        with pytest.raises(TypeError, match="predicted labels as uint8, got float64"):
            as_labels(np.zeros(3), "predicted")


class TestMeanDefined:
    def test_leaves_nan_out(self) -> None:
        values = np.array([[1.0, np.nan], [np.nan, np.nan], [0.0, 3.0]])
        np.testing.assert_array_equal(mean_defined(values, axis=1), [1.0, np.nan, 1.5])

    def test_nothing_is_nan(self) -> None:
        assert np.isnan(mean_defined(np.array([])))


class TestRatio:
    def test_zero_and_undefined_differ(self) -> None:
        found = ratio(np.array([0, 0]), np.array([0, 0]), np.array([True, False]))
        np.testing.assert_array_equal(found, [0.0, np.nan])
