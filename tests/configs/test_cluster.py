from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema import Runtime


class TestExecutor:
    def test_smoke(self) -> None:
        assert Runtime().executor == "local"
        own = Runtime.model_validate({"executor": "dask"})
        assert own.address is None
        other = {"executor": "dask", "address": "tcp://host:8786", "resources": {"network": {"GPU": 1}}}
        assert Runtime.model_validate(other).resources.network == {"GPU": 1.0}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"address": "tcp://host:8786"}, "executor: local"),
            ({"executor": "dask", "address": "host"}, "expected a scheduler's address such as"),
            ({"executor": "dask", "address": "http://host:8786"}, "expected a scheduler's address such as"),
            ({"executor": "dask", "resources": {"cpu": {"CPU": 1}}}, "expected none without an address"),
            ({"resources": {"network": {"GPU": 1}}}, "expected none without an address"),
            ({"executor": "dask", "address": "tcp://h:1", "resources": {"network": {"GPU": 0}}}, "greater than 0"),
            ({"executor": "dask", "resources": {"stages": {"refine": {}}}}, "expected none without an address"),
            ({"executor": "dask", "address": "tcp://h:1", "resources": {"stages": {"x": {}}}}, "'refine'"),
            ({"executor": "threads"}, "'local' or 'dask'"),
        ],
    )
    def test_refuses_contradictions(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            Runtime.model_validate(settings)
