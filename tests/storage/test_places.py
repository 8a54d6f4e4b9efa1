import sys
from pathlib import Path

import pytest

from storage.places import PlaceError, file_system, is_local, place, read_whole


class TestPlace:
    def test_smoke(self) -> None:
        found = place("s3://bucket/run")
        assert str(found / "stages") == "s3://bucket/run/stages"
        assert not is_local(found)

    @pytest.mark.parametrize("text", ["file:///some/run", "file:/some/run", "local:///some/run", "/some/run"])
    def test_a_folder_of_this_machine_is_a_plain_path(self, text: str) -> None:
        assert place(text) == Path("/some/run")
        assert is_local(place(text))

    def test_a_relative_one_becomes_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert place("runs/one") == place(Path("runs/one")) == tmp_path / "runs/one"

    @pytest.mark.parametrize("text", ["s3://bucket/run", "memory://bucket/a/b"])
    def test_pathlib_takes_a_slash_away(self, text: str) -> None:
        assert place(Path(text)) == place(text) == place(text + "/")

    def test_a_place_is_its_own_place(self) -> None:
        found = place("memory://bucket/run")
        assert place(found) is found
        assert place(str(found)) == found

    @pytest.mark.parametrize("text", ["C:/data", "odd:/name", "a:b"])
    def test_colons_are_allowed_in_paths(self, text: str) -> None:
        assert is_local(place(text))

    def test_listings_are_never_kept(self) -> None:
        fs, name = file_system(place("s3://bucket/run"))
        assert not fs.dircache.use_listings_cache
        assert name == "bucket/run"

    def test_refuses_an_unknown_protocol(self) -> None:
        with pytest.raises(PlaceError, match="expected a path or s3://BUCKET/PREFIX, saw the protocol 'gopher'"):
            place("gopher://host/run")

    def test_refuses_a_url_without_a_bucket(self) -> None:
        with pytest.raises(PlaceError, match="expected s3://BUCKET/PREFIX, saw 's3://'"):
            place("s3://")

    def test_tells_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        place("s3://bucket/first")
        monkeypatch.setitem(sys.modules, "s3fs", None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
        with pytest.raises(PlaceError, match=r"pip install -e '\.\[s3\]' in the checkout"):
            place("s3://bucket/another")


class TestReadWhole:
    def test_smoke(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"here")
        remote = place("memory://test-places/a")
        remote.write_bytes(b"there")
        assert (read_whole(tmp_path / "a"), read_whole(remote)) == (b"here", b"there")
