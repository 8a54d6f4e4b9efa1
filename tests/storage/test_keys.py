from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import RunConfig
from storage import keys
from storage.files import short_key
from storage.index import ImageIndex
from storage.weights import WeightsError
from storage.workspace import Workspace

SIZES = [(9, 9), (8, 8), (7, 7), None]


def config(**changes: Any) -> RunConfig:
    dataset = {"format": "table", "root": "data", "table": "labels.csv", **changes.pop("dataset", {})}
    return RunConfig.model_validate({"dataset": dataset, **changes})


@pytest.fixture
def index(index_of_sizes: Callable[..., ImageIndex]) -> ImageIndex:
    return index_of_sizes(SIZES)


def classifier_key(index: ImageIndex, **settings: Any) -> str:
    return short_key(keys.classifier_basis(config(classifier=settings), index))


class TestListing:
    def test_the_place_of_the_data_does_not_matter(self) -> None:
        first, second = (keys.listing_basis(config(dataset={"root": root}), "ab") for root in ("here", "there"))
        assert first == second
        assert keys.listing_basis(config(dataset={"max_pixels": 5}), "ab") != first
        assert keys.listing_basis(config(), "cd") != first

    def test_folder_carries_stage_and_key(self, workspace: Workspace) -> None:
        folder = keys.stage_folder(workspace, "truth", {"a": 1})
        assert folder.name == f"truth-{folder.key}"
        assert folder.key == keys.stage_key("truth", {"a": 1})


class TestClassifier:
    def test_only_training_rows_matter(self, index: ImageIndex, index_of_sizes: Callable[..., ImageIndex]) -> None:
        assert keys.training_rows(config(), index) == [0, 2]
        assert keys.training_rows(config(classifier={"train_split": ["train", "val"]}), index) == [0, 1, 2]
        hashes = list(index.hashes)
        other_val = index_of_sizes(SIZES, sha256=[hashes[0], "f" * 64, hashes[2], hashes[3]])
        other_train = index_of_sizes(SIZES, sha256=["f" * 64, *hashes[1:]])
        assert classifier_key(other_val) == classifier_key(index)
        assert classifier_key(other_train) != classifier_key(index)

    @pytest.mark.parametrize(
        ("change", "matters"),
        [
            ({"batch_size": 7}, False),
            ({"input_size": 64}, True),
            ({"train": {"seed": 1}}, True),
            ({"train": {"augment": False}}, True),
            ({"frozen": True}, True),
        ],
    )
    def test_settings(self, index: ImageIndex, change: dict[str, Any], matters: bool) -> None:
        assert (classifier_key(index, **change) != classifier_key(index)) == matters

    def test_augmentation_does_not_concern_a_frozen_backbone(self, index: ImageIndex) -> None:
        off = classifier_key(index, frozen=True, train={"augment": False})
        assert off == classifier_key(index, frozen=True)

    @pytest.mark.parametrize("kind", ["weights", "trained"])
    def test_files_count_by_content(self, index: ImageIndex, tmp_path: Path, kind: str) -> None:
        paths = [tmp_path / f"{name}.pth" for name in "abc"]
        for path, content in zip(paths, (b"1", b"1", b"2")):
            path.write_bytes(content)
        first, same, other = (classifier_key(index, **{kind: str(path)}) for path in paths)
        assert first == same
        assert first != other

    def test_training_does_not_concern_a_trained_one(self, index: ImageIndex, tmp_path: Path) -> None:
        (tmp_path / "a.pth").write_bytes(b"1")
        trained = str(tmp_path / "a.pth")
        assert classifier_key(index, trained=trained, train={"epochs": 1}) == classifier_key(index, trained=trained)

    def test_refuses_absent_weights(self, index: ImageIndex) -> None:
        with pytest.raises(WeightsError, match="download the weights yourself"):
            classifier_key(index, weights="absent.pth")


class TestFeatures:
    def key(self, index: ImageIndex, rows: list[int], **classifier: Any) -> str:
        return short_key(keys.feature_basis(config(classifier=classifier), index, rows))

    def test_smoke(self, index: ImageIndex, tmp_path: Path) -> None:
        assert self.key(index, [0, 2]) == self.key(index, [0, 2], train={"epochs": 3}, head="native")
        assert self.key(index, [0, 2]) != self.key(index, [0])
        # Without weights the backbone is what the seed draws.
        assert self.key(index, [0], train={"seed": 1}) != self.key(index, [0])
        (tmp_path / "w.pth").write_bytes(b"1")
        weights = str(tmp_path / "w.pth")
        assert self.key(index, [0], weights=weights, train={"seed": 1}) == self.key(index, [0], weights=weights)


class TestLater:
    def test_names_do_not_enter_a_proposal(self, index: ImageIndex) -> None:
        def key(weights: str = "w", runtime: dict[str, Any] | None = None, **proposal: Any) -> str:
            settings = {"method": "grad_cam", **proposal}
            made = config(proposals=[settings], runtime=runtime or {})
            return short_key(keys.proposal_basis(made, made.proposals[0], index, weights))

        assert key(name="shown to people") == key()
        assert key(runtime={"device": "cpu", "workers": 3, "threads": 1}) == key()
        others = {key("v"), key(layers=["S4"]), key(truncation=50), key(runtime={"shard_images": 7}), key()}
        assert len(others) == 5

    def test_masks_follow_steps_and_proposal(self, index: ImageIndex, workspace: Workspace) -> None:
        fixed = config(refine=[{"step": "threshold", "value": 0.3}])
        bases = [
            keys.mask_basis(made, index, workspace.stage("cam", name))
            for made, name in ((config(), "a"), (config(), "b"), (fixed, "a"))
        ]
        assert len({short_key(basis) for basis in bases}) == 3

    def test_floors_and_scores_depend_on_their_own_settings(self, workspace: Workspace) -> None:
        truth, labels = workspace.stage("truth", "t"), workspace.stage("mask", "m")

        def bases(**evaluate: Any) -> tuple[Any, Any]:
            made = config(evaluate=evaluate)
            return keys.evaluation_basis(made, truth, labels), keys.evaluation_basis(made, truth, None)

        plain, box, curve = bases(), bases(centred_box=0.5), bases(curve=False)
        assert (box[0] == plain[0], box[1] == plain[1]) == (True, False)
        assert (curve[0] == plain[0], curve[1] == plain[1]) == (False, True)

    def test_truth_follows_masks_and_index(self, index: ImageIndex) -> None:
        assert keys.truth_basis(config(), index, "a") == keys.truth_basis(config(), index, "a")
        assert keys.truth_basis(config(), index, "a") != keys.truth_basis(config(), index, "b")

    def test_a_report_shows_its_title(self) -> None:
        titles = [keys.report_basis(config(report={"title": title}), {"labels": ["m"]}) for title in "ab"]
        assert titles[0] != titles[1]
