"""Plan: what a run would do, found out by listing the data set and looking at commit records; nothing is written."""

from pathlib import Path

from configs import ConfigError, RunConfig, load_config
from configs.refine import ScgStep, prefixes
from flows.cli import FAILED, FINISHED, REFUSED
from storage import keys
from storage.index import ImageIndex
from storage.readers import read_dataset
from storage.samples import StagingError
from storage.staged import STAGE_SHARD, listing_digest, staged_index, stamp_all, thin
from storage.stages import StageFolder, stage_key
from storage.weights import WeightsError
from storage.workspace import Workspace


def plan_command(config: str, workspace: Path | None, limit: int | None, overrides: list[str]) -> int:
    """Print the plan of a run."""
    from flows.commands import default_workspace, say

    try:
        checked = load_config(config, overrides)
        lines = plan(checked, Workspace(workspace or default_workspace(config)), limit)
    except (ConfigError, WeightsError) as error:
        say(f"refused: {error}")
        return REFUSED
    except StagingError as error:
        say(f"failed while listing: {error}")
        return FAILED
    print("\n".join(lines))
    return FINISHED


def plan(config: RunConfig, workspace: Workspace, limit: int | None) -> list[str]:
    """Lines that say, step by step, how much is done and how much is to do."""
    listing = thin(read_dataset(config.dataset), limit)
    stamps = stamp_all(config.dataset.root, listing)
    sizes = [max(0, image[0]) for image, _ in stamps]
    lines = [
        f"workspace  {workspace.root}",
        f"images     {len(listing.samples)} in {', '.join(sorted({one.split for one in listing.samples}))}; "
        f"{sum(sizes) / 1e6:.1f} MB on disk, {sum(size == 0 for size in sizes)} missing or empty",
        f"classes    {', '.join(listing.classes)}",
    ]
    basis = keys.listing_basis(config, listing_digest(listing, stamps))
    staged = keys.stage_folder(workspace, "stage", basis)
    lines.append(_line("stage", staged, -(-len(listing.samples) // STAGE_SHARD), f"shards of {STAGE_SHARD} images"))
    if not (staged.folder / "images.parquet").exists():
        return [*lines, "the rest depends on what staging finds: run `maskmill stage` and plan again"]
    return lines + _later(config, workspace, staged_index(staged))


def _later(config: RunConfig, workspace: Workspace, index: ImageIndex) -> list[str]:
    from storage.models import is_saved, weights_digest

    size = config.runtime.shard_images
    shards = len(index.shards(size))
    pairs = sum(len(ids) for row, ids in enumerate(index.class_ids) if index.ok[row])
    canvas = sum(height * width * count for (height, width), count in index.canvases.items())
    lines = [
        f"index      {len(index)} rows, {int((~index.ok).sum())} quarantined, {pairs} (image, class) pairs, "
        f"{len(index.canvases)} canvas sizes; a label set takes up to {2 * canvas / 1e6:.0f} MB before compression",
    ]
    key = stage_key("classifier", keys.classifier_basis(config, index))
    model = workspace.model("classifier", key)
    if not is_saved(model):
        state = "to resume" if (model / "checkpoint.pt").exists() else "to do"
        return [
            *lines,
            f"classify   {state} ({model.name}); proposals and masks depend on its weights: {shards} shards each",
        ]
    lines.append(f"classify   cached ({model.name})")
    for one in config.all_proposals:
        basis = keys.proposal_basis(config, one, index, weights_digest(model))
        proposal = keys.stage_folder(workspace, "propose", basis)
        lines.append(_line("propose", proposal, shards, one.title))
        step, correlated = config.refine[0], None
        if isinstance(step, ScgStep):
            correlated = keys.stage_folder(workspace, "scg", keys.correlation_basis(config, step, proposal))
            lines.append(_line("propose", correlated, shards, f"{one.title}, self-correlated"))
        for stage, steps in prefixes(config.refine, every=config.evaluate.steps):
            masks = keys.mask_basis(config, index, proposal, steps, correlated)
            folder = keys.stage_folder(workspace, "mask", masks)
            lines.append(_line("refine", folder, shards, one.title if stage == "mask" else f"{one.title}, {stage}"))
    return lines


def _line(step: str, folder: StageFolder, shards: int, what: str) -> str:
    missing = len(folder.missing()) if folder.exists else shards
    return f"{step:<10} {missing} to do, {shards - missing} cached ({folder.name}, {what})"
