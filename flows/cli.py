"""The command line: ``maskmill run CONFIG`` and its sisters.

Nothing heavy is imported before a command needs it: ``--help`` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from flows.cluster_cli import cluster

FINISHED, FAILED, REFUSED, HELD = 0, 1, 2, 3

app = App(
    name="maskmill",
    help="From image-level labels to pixel pseudo-masks: orchestrated, restartable, measured.",
    version_flags=["--version"],
)

Config = Annotated[str, Parameter(help="YAML file, or preset:NAME.")]
WorkspaceOption = Annotated[
    Path | None,
    Parameter(name=["--workspace", "-w"], help="Folder or s3://BUCKET/PREFIX. Default: workspaces/NAME of the config."),
]
Limit = Annotated[int | None, Parameter(help="At most this many images, spread over the data set.")]
Overrides = Annotated[
    list[str] | None,
    Parameter(name="--set", consume_multiple=True, negative="", help="section.key=value, several allowed."),
]
Strict = Annotated[bool, Parameter(negative="", help="End with status 1 if an image was quarantined.")]


_LAST = {"run": "report", "pretrain": "attend", "train": "decode"}
"""Where the name of a command is not that of its last step."""


def _step(name: str, text: str) -> None:
    def command(
        config: Config,
        *,
        workspace: WorkspaceOption = None,
        limit: Limit = None,
        overrides: Overrides = None,
        strict: Strict = False,
    ) -> int:
        from flows.commands import run_command

        last = _LAST.get(name, name)
        return run_command(config, workspace, limit, overrides or [], last=last, strict=strict)

    command.__doc__ = text
    app.command(command, name=name)


_step("run", "Do the whole pipeline, resuming whatever is committed.")
_step("stage", "List and inspect the data set, write its index and ground truth.")
_step("classify", "Train or take over the classifier, with what it needs.")
_step("pretrain", "Bring the transformer and its attention up to date, with what they need.")
_step("propose", "Make soft maps, with what they need.")
_step("train", "Train decoders and make their maps, with what they need.")
_step("refine", "Make masks, with what they need.")
_step("segment", "Train segmentation networks and predict their masks, with what they need.")
_step("recurse", "Label, train, label again, with what that needs.")
_step("evaluate", "Score the masks, with what that needs.")
_step("report", "Write the page, with what it needs.")


@app.command
def plan(config: Config, *, workspace: WorkspaceOption = None, limit: Limit = None, overrides: Overrides = None) -> int:
    """Say what a run would do: shards, images, bytes, what is cached. Nothing is done."""
    from flows.plan import plan_command

    return plan_command(config, workspace, limit, overrides or [])


@app.command
def status(workspace: Path) -> int:
    """Say what a workspace holds and who works on it."""
    from flows.inspect import status_command

    return status_command(workspace)


@app.command
def verify(workspace: Path, *, repair: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Read every committed object back against its recorded hash.

    Parameters
    ----------
    workspace
        Folder of a run.
    repair
        Withdraw the commit records of what is damaged, so that the next run makes it anew.
    """
    from flows.inspect import verify_command

    return verify_command(workspace, repair_damage=repair)


@app.command
def export(
    workspace: Path,
    *,
    format: Literal["voc", "coco"],
    out: Path,
    labels: str | None = None,
    split: str | None = None,
) -> int:
    """Write masks in a layout that other tools read.

    Parameters
    ----------
    workspace
        Folder of a run.
    format
        ``voc`` (palette PNG) or ``coco`` (RLE instances).
    out
        Folder to write to.
    labels
        Name of a proposal, or of a stage folder; default: the run's first proposal.
    split
        Only this split.
    """
    from flows.inspect import export_command

    return export_command(workspace, format, out, labels, split)


Cron = Annotated[str | None, Parameter(help="Five fields, as '0 2 * * *': at two o'clock every night.")]
Interval = Annotated[float | None, Parameter(help="Seconds from one start to the next.")]
Timezone = Annotated[str | None, Parameter(help="Of the cron line, as Europe/Berlin. Default: UTC.")]
Name = Annotated[str | None, Parameter(help="Of the deployment. Default: that of the config.")]


@app.command
def server(*, port: int = 4200) -> int:
    """Be a Prefect server on this machine, for scheduled runs; Ctrl-C ends it."""
    from flows.server import server_command

    return server_command(port)


@app.command
def worker(*, pool: str = "maskmill") -> int:
    """Do the runs that the server starts; Ctrl-C ends it."""
    from flows.server import worker_command

    return worker_command(pool)


@app.command
def deploy(
    config: Config,
    *,
    cron: Cron = None,
    interval: Interval = None,
    timezone: Timezone = None,
    workspace: WorkspaceOption = None,
    name: Name = None,
    limit: Limit = None,
    overrides: Overrides = None,
    pool: str = "maskmill",
) -> int:
    """Have the server start runs by the clock; a worker does them."""
    from flows.deploy import Order, deploy_command

    return deploy_command(Order(config, workspace, limit, overrides or [], cron, interval, timezone, name), pool)


@app.command
def serve(
    config: Config,
    *,
    cron: Cron = None,
    interval: Interval = None,
    timezone: Timezone = None,
    workspace: WorkspaceOption = None,
    name: Name = None,
    limit: Limit = None,
    overrides: Overrides = None,
) -> int:
    """Start runs by the clock from this process, without a worker; when it ends, so do they."""
    from flows.deploy import Order
    from flows.serve import serve_command

    return serve_command(Order(config, workspace, limit, overrides or [], cron, interval, timezone, name))


@app.command
def prune(workspace: Path, *, keep: int, dry_run: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Remove stages, models and reports that none of the last runs used.

    Parameters
    ----------
    workspace
        Folder of a run.
    keep
        How many runs to keep, counted from the last; runs that used the same count once.
    dry_run
        Only say what would go.
    """
    from flows.prune import prune_command

    return prune_command(workspace, keep, dry=dry_run)


@app.command
def demo(folder: Path = Path("demo")) -> int:
    """Make a small data set and run the whole pipeline on it.

    Parameters
    ----------
    folder
        Where data set and workspace go.
    """
    from flows.commands import demo_command

    return demo_command(folder)


@app.command
def presets() -> int:
    """List the ready configurations."""
    from configs import preset_names

    print("\n".join(preset_names()))
    return FINISHED


app.command(cluster)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command and leave with its exit status."""
    try:
        result: Any = app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        sys.exit(REFUSED)
    except ValueError as error:
        from configs import ConfigError

        if not isinstance(error, ConfigError):
            raise
        print(f"refused: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    sys.exit(result if isinstance(result, int) else FINISHED)


if __name__ == "__main__":
    main()
