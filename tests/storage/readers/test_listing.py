from pathlib import Path

import pytest

from storage.readers.listing import Classes, check_id, list_text, make_listing
from storage.samples import Sample, StagingError

NFD, NFC = "cafe\u0301", "caf\u00e9"


def sample(image_id: str, labels: tuple[str, ...] = (), row: int = 1) -> Sample:
    return Sample(image_id, f"{image_id}.jpg", "train", labels, f"list.txt:{row}")


class TestClasses:
    def test_given_order_is_kept_and_found_names_are_sorted(self) -> None:
        assert Classes(["b", "a"]).finish() == ("b", "a")
        found = Classes(None)
        found.check(["b"], "")
        found.check(["a", "b"], "")
        assert found.finish() == ("a", "b")

    def test_spelling_is_one(self) -> None:
        assert Classes([NFD]).check([NFC, NFD], "") == (NFC,)

    @pytest.mark.parametrize(
        ("name", "hint"), [("dog", "saw 'dog'$"), (" cat", "surrounding space"), ("Cat", "upper and lower case")]
    )
    def test_refuses_unknown(self, name: str, hint: str) -> None:
        with pytest.raises(StagingError, match=rf"list\.txt:3: expected one of dataset\.classes \(cat, owl\).*{hint}"):
            Classes(["cat", "owl"]).check(["owl", name], "list.txt:3")

    def test_refuses_space_in_found_names(self) -> None:
        with pytest.raises(StagingError, match="without surrounding space, saw 'cat '"):
            Classes(None).check(["cat "], "")

    def test_refuses_too_many_none_and_twice(self) -> None:
        with pytest.raises(StagingError, match="1 to 254 classes, the data set has 255"):
            Classes([str(number) for number in range(255)]).finish()
        with pytest.raises(StagingError, match="has 0"):
            Classes(None).finish()
        with pytest.raises(StagingError, match="every class once"):
            Classes([NFC, NFD]).finish()


class TestMakeListing:
    def test_labels_take_class_order(self) -> None:
        listing = make_listing([sample("x", ("a", "b"))], Classes(["b", "a"]), "")
        assert listing.samples[0].labels == ("b", "a")
        assert listing.classes == ("b", "a")

    def test_refuses_an_id_twice(self) -> None:
        with pytest.raises(StagingError, match=r"list\.txt:9: .* once, saw 'x', which list\.txt:2 has too"):
            make_listing([sample("x", row=2), sample("x", row=9)], Classes(["a"]), "")

    def test_refuses_nothing(self) -> None:
        with pytest.raises(StagingError, match="here: expected at least one image"):
            make_listing([], Classes(["a"]), "here")

    def test_refuses_paths_that_are_no_text(self) -> None:
        with pytest.raises(StagingError, match="path that is text"):
            make_listing([Sample("x", "\ud800.jpg", "train", (), "")], Classes(["a"]), "")


class TestTexts:
    def test_ids_have_one_spelling(self) -> None:
        assert check_id(NFD, "") == NFC

    @pytest.mark.parametrize("image_id", ["", " a", "a ", "a\u00a0", "a\nb", "a\0", "\ud800"])
    def test_refuses_ids(self, image_id: str) -> None:
        with pytest.raises(StagingError, match="t:1: expected an image id without"):
            check_id(image_id, "t:1")

    def test_list_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa")
        (tmp_path / "b.txt").write_bytes(b"a\xff")
        assert list_text(tmp_path, "a.txt") == "a"
        with pytest.raises(StagingError, match=r"b\.txt: expected UTF-8 text, byte 1"):
            list_text(tmp_path, "b.txt")
        with pytest.raises(StagingError, match="file not found: 'c"):
            list_text(tmp_path, "c.txt")
