"""One seed for every training of a run: where it goes, and what it leaves alone."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import ConfigError, RunConfig, load_config

DATASET = {"format": "voc", "root": "."}
UNET = {"model": "unet"}
CAM = "grad_cam-S5"


def seeds(**sections: Any) -> list[int]:
    """Of all trainings, the classifier's first."""
    made = RunConfig.model_validate({"dataset": DATASET, **sections})
    found = [made.classifier.train.seed, *(one.optimise.seed for one in made.train)]
    return found + ([made.recurse.train.optimise.seed] if made.recurse else [])


def test_none_is_the_seed_of_each_training() -> None:
    assert seeds(train=[UNET], recurse={"train": UNET | {"name": "again"}}) == [0, 0, 0]


@pytest.mark.parametrize("seed", [0, 3])
def test_reaches_every_training(seed: int) -> None:
    train = [UNET, {"model": "recurseed"}, {"model": "fcam", "proposal": CAM}, {"model": "affinity", "proposal": CAM}]
    recurse = {"train": {**UNET, "name": "again"}}
    assert seeds(seed=seed, train=train, recurse=recurse) == [seed] * 6


def test_a_seed_of_its_own_stays() -> None:
    train = [{**UNET, "optimise": {"seed": 7, "epochs": 2}}]
    assert seeds(seed=3, classifier={"train": {"seed": 5}}, train=train) == [5, 7]


def test_reaches_pretraining() -> None:
    made = RunConfig.model_validate({"dataset": DATASET, "seed": 4, "transformer": {"pretrain": {}}})
    assert made.transformer is not None
    assert made.transformer.pretrain is not None
    assert made.transformer.pretrain.seed == 4


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": "many"}, {"seed": 1, "train": "unet"}, {"seed": 1, "train": [3]}]
)
def test_refusals_name_what_was_wrong(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"dataset": DATASET, **wrong}), encoding="utf-8")
    with pytest.raises(ConfigError, match=next(reversed(wrong))):
        load_config(path)
