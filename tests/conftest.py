"""Fixtures every test may use."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and golden cases that lies beside a developer's checkout."""
    folder = Path(os.environ.get("MASKMILL_SHARED", SHARED))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str], dict[str, Any]]:
    """Loader of a golden case: its arrays by name, and ``_meta`` decoded."""

    def load(name: str) -> dict[str, Any]:
        with np.load(shared / "goldens" / f"{name}.npz") as archive:
            case: dict[str, Any] = {key: archive[key] for key in archive.files}
        case["_meta"] = json.loads(bytes(case["_meta"]))
        return case

    return load
