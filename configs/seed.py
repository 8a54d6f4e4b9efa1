"""One seed for all trainings of a run."""

from typing import Any


def spread_seed(data: dict[str, Any]) -> dict[str, Any]:
    """A raw configuration whose ``seed`` stands in every training that has none.

    Examples
    --------
    >>> spread_seed({"seed": 7, "train": [{"model": "unet"}]})["train"]
    [{'model': 'unet', 'optimise': {'seed': 7}}]
    """

    def seeded(section: Any, *path: str) -> Any:
        if not isinstance(section, dict):
            return section  # Refused, or taken, by the schema.
        if not path:
            return {"seed": data["seed"], **section}
        return {**section, path[0]: seeded(section.get(path[0], {}), *path[1:])}

    found = {**data, "classifier": seeded(data.get("classifier", {}), "train")}
    if isinstance(found.get("train"), list):
        found["train"] = [seeded(one, "optimise") for one in found["train"]]
    if isinstance(found.get("recurse"), dict):
        found["recurse"] = seeded(found["recurse"], "train", "optimise")
    if isinstance(found.get("transformer"), dict) and "pretrain" in found["transformer"]:
        found["transformer"] = seeded(found["transformer"], "pretrain")
    return found
