"""Times of scheduled runs, over changes of daylight saving too: one run a night, whatever the clock does."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from flows.schedule import make_schedule, next_starts

BERLIN = ZoneInfo("Europe/Berlin")


def starts(cron: str, start: datetime, count: int = 4) -> list[str]:
    schedule = make_schedule(cron, None, "Europe/Berlin")
    return [f"{one:%m-%d %H:%M %Z}" for one in next_starts(schedule, count, start)]


class TestNextStarts:
    def test_the_hour_that_is_left_out(self) -> None:
        expected = ["03-27 02:30 CET", "03-28 01:30 CET", "03-29 02:30 CEST", "03-30 02:30 CEST"]
        assert starts("30 2 * * *", datetime(2027, 3, 26, 12, tzinfo=BERLIN)) == expected

    def test_the_hour_that_comes_twice(self) -> None:
        expected = ["10-30 02:30 CEST", "10-31 02:30 CEST", "11-01 02:30 CET", "11-02 02:30 CET"]
        assert starts("30 2 * * *", datetime(2027, 10, 29, 12, tzinfo=BERLIN)) == expected

    @pytest.mark.parametrize(("month", "day"), [(3, 28), (10, 31)])
    def test_other_hours_do_not_care(self, month: int, day: int) -> None:
        found = starts("0 4 * * *", datetime(2027, month, day, 0, tzinfo=BERLIN), 2)
        assert [one[6:11] for one in found] == ["04:00", "04:00"]

    def test_utc_is_the_default(self) -> None:
        found = next_starts(make_schedule("0 2 * * *", None, None), 1, datetime(2027, 3, 28, tzinfo=ZoneInfo("UTC")))
        assert [one.isoformat() for one in found] == ["2027-03-28T02:00:00+00:00"]

    def test_an_interval(self) -> None:
        one, two = next_starts(make_schedule(None, 90, None), 2)
        assert (two - one).total_seconds() == 90


class TestMakeSchedule:
    @pytest.mark.parametrize(
        ("cron", "interval", "zone", "told"),
        [
            (None, None, None, "saw none"),
            ("0 2 * * *", 60, None, "saw both"),
            ("0 25 * * *", None, None, "saw '0 25 \\* \\* \\*'"),
            ("every night", None, None, "expected five fields"),
            ("0 2 * * *", None, "Mars/Olympus", "saw 'Mars/Olympus'"),
            ("0 2 * * *", None, "../etc/passwd", "name of a time zone"),
            (None, 0.5, None, "saw 0.5"),
            (None, -5, None, "saw -5"),
            (None, float("nan"), None, "saw nan"),
        ],
    )
    def test_refusals(self, cron: str | None, interval: float | None, zone: str | None, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            make_schedule(cron, interval, zone)
