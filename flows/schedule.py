"""When a deployment runs: a cron line or an interval, in a time zone, checked before anything is registered."""

from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from prefect.schedules import Cron, Interval, Schedule


def make_schedule(cron: str | None, interval: float | None, timezone: str | None) -> Schedule:
    """A schedule from what a person wrote.

    Parameters
    ----------
    cron
        Five fields, as ``0 2 * * *``: at two o'clock every night.
    interval
        Seconds from one start to the next, from 1.
    timezone
        Name of a time zone, as ``Europe/Berlin``; default UTC.

    Raises
    ------
    ValueError
        Not exactly one of both, a cron line or a zone that does not exist, an interval below 1.

    Examples
    --------
    >>> make_schedule("0 2 * * *", None, "Europe/Berlin").timezone
    'Europe/Berlin'
    """
    if (cron is None) == (interval is None):
        raise ValueError(f"expected one of --cron and --interval, saw {'none' if cron is None else 'both'}")
    zone = timezone or "UTC"
    try:
        ZoneInfo(zone)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"--timezone: expected the name of a time zone as Europe/Berlin, saw {zone!r}") from error
    if cron is not None:
        try:
            schedule = Cron(cron, timezone=zone)
            next_starts(schedule, 1)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--cron: expected five fields as '0 2 * * *', saw {cron!r}") from error
        return schedule
    if interval is None or not interval >= 1:
        raise ValueError(f"--interval: expected seconds from 1, saw {interval}")
    return Interval(timedelta(seconds=interval), timezone=zone)


def next_starts(schedule: Schedule, count: int, start: datetime | None = None) -> list[datetime]:
    """The next times at which the server will start a run, by its own arithmetic.

    On a day whose change to daylight saving leaves the time out, it comes an hour early; where a change back repeats
    the time, it comes once.
    """
    from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule

    rule: CronSchedule | IntervalSchedule
    if schedule.cron is not None:
        rule = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    elif schedule.interval is not None:
        rule = IntervalSchedule(
            interval=schedule.interval, anchor_date=schedule.anchor_date, timezone=schedule.timezone
        )
    else:
        raise ValueError(f"expected a cron line or an interval, saw {schedule}")
    return list(islice(rule._get_dates_generator(count, start), count))
