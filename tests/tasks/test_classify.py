from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs.schema import Classifier
from configs.training import Training
from methods.networks import build_classifier
from storage.index import ImageIndex
from tasks.classify import centre_head, fit_classifier, is_multi_label, start_from_zero
from tasks.images import ImageSource

CPU = torch.device("cpu")
Make = Callable[..., ImageIndex]


def quiet(*_: object) -> None:
    pass


class TestIsMultiLabel:
    @pytest.mark.parametrize(
        ("labels", "classes", "auto"),
        [
            ([["cat"], ["dog"], ["cat"]], ("cat", "dog"), False),
            ([["cat"], []], ("cat", "dog"), True),
            ([["cat", "dog"], ["dog"]], ("cat", "dog"), True),
            ([["cat"], ["cat"]], ("cat",), True),
        ],
    )
    def test_auto(self, index_of_labels: Make, labels: list, classes: tuple[str, ...], auto: bool) -> None:
        index = index_of_labels(labels, classes)
        rows = list(range(len(labels)))
        assert is_multi_label("auto", index, rows) is auto
        assert is_multi_label("soft_margin", index, rows) is True

    def test_only_the_rows_asked_for_count(self, index_of_labels: Make) -> None:
        index = index_of_labels([["cat"], ["dog"], ["cat", "dog"]], ("cat", "dog"))
        assert is_multi_label("cross_entropy", index, [0, 1]) is False
        assert is_multi_label("auto", index, [0, 1, 2]) is True

    def test_refuses_cross_entropy(self, index_of_labels: Make) -> None:
        index = index_of_labels([["cat"], [], ["cat", "dog"]], ("cat", "dog"))
        with pytest.raises(ValueError, match=r"saw 2 classes and images with \[0, 1, 2\] labels; use auto"):
            is_multi_label("cross_entropy", index, [0, 1, 2])
        with pytest.raises(ValueError, match=r"saw 1 classes and images with \[1\] labels"):
            is_multi_label("cross_entropy", index_of_labels([["cat"]], ("cat",)), [0])


class TestFitClassifier:
    @pytest.fixture
    def pieces(self, pictures: Any) -> Any:
        source = ImageSource(pictures.root, pictures.index, max_pixels=1000)
        yield build_classifier("small", 2), pictures.index, list(range(7)), source
        source.close()

    def test_features_train_the_head_alone(self, pieces: Any, tmp_path: Path) -> None:
        network, path = pieces[0], tmp_path / "checkpoint.pt"
        before = {name: value.clone() for name, value in network.model.state_dict().items()}
        config, made = Classifier(input_size=32, train=Training(epochs=2)), torch.rand(7, 160)
        facts = fit_classifier(network, config, *pieces[1:], CPU, path, made, quiet)
        after = network.model.state_dict()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed == {"head.weight", "head.bias"}
        assert (facts["multi_label"], facts["images"], len(facts["history"])) == (False, 7, 2)
        assert not path.exists()

    def test_images_train_all_of_it(self, pieces: Any, tmp_path: Path) -> None:
        network, path, seen = pieces[0], tmp_path / "checkpoint.pt", []
        before = {name: value.clone() for name, value in network.model.named_parameters()}
        config = Classifier(input_size=32, loss="soft_margin", train=Training(epochs=1, batch_size=4))
        facts = fit_classifier(network, config, *pieces[1:], CPU, path, None, lambda *_: seen.append(path.exists()))
        assert all(not torch.equal(value, before[name]) for name, value in network.model.named_parameters())
        assert (facts["multi_label"], seen) == (True, [True])


class TestHead:
    def test_centring_changes_no_probability(self) -> None:
        torch.manual_seed(0)
        head, features = nn.Linear(5, 3), torch.randn(7, 5)
        before = torch.softmax(head(features), dim=1)
        centre_head(head)
        assert torch.allclose(torch.softmax(head(features), dim=1), before, atol=1e-6)
        assert head.weight.sum(dim=0).abs().max() < 1e-6

    def test_a_convolution_is_left_alone(self) -> None:
        head = nn.Conv2d(3, 2, 1)
        before = head.weight.clone()
        centre_head(head)
        assert torch.equal(head.weight, before)

    def test_zero_start(self) -> None:
        head = nn.Linear(5, 3)
        start_from_zero(head)
        assert not any(parameter.any() for parameter in head.parameters())
