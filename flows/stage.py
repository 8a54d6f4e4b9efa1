"""Stage: list the data set, look at every file once, write the image index and the ground truth."""

import sys
from typing import Any

from prefect import flow

from flows.pool import run_work
from storage import keys
from storage.boxes import BOXES, boxes_basis, boxes_digest
from storage.files import write_bytes_atomic
from storage.news import News, compare
from storage.readers import read_dataset
from storage.samples import Listing
from storage.staged import (
    STAGE_SHARD,
    Stamp,
    earlier_index,
    listing_digest,
    read_sources,
    staged_index,
    stamp_all,
    thin,
)
from storage.stages import StageFolder
from tasks.context import Run
from tasks.fit_decoder import check_decoders
from tasks.fit_segmenter import check_segmenters
from tasks.stage import INDEX_UNIT, BoxWork, InspectWork, TruthWork, begin_truth, finish_staging
from tasks.state import State
from tasks.sweep import check_sweep

SHOWN = 5


def list_dataset(run: Run) -> tuple[Listing, list[tuple[Stamp, Stamp]], dict[str, Any]]:
    """Samples of the run with the stamps of their files, and the basis of the stage."""
    listing = thin(read_dataset(run.config.dataset), run.limit)
    stamps = stamp_all(run.root, listing)
    return listing, stamps, keys.listing_basis(run.config, listing_digest(listing, stamps))


def truth_folder(run: Run, staged: StageFolder) -> tuple[StageFolder, dict[str, Any]] | None:
    """Label set of the ground truth, None where the data set has no masks."""
    masks = str(staged.log.read(INDEX_UNIT).facts["masks"])
    if not masks:
        return None
    basis = keys.truth_basis(run.config, staged_index(staged), masks)
    return keys.stage_folder(run.workspace, "truth", basis), basis


def box_folder(state: State, staged: StageFolder) -> tuple[StageFolder, dict[str, Any]] | None:
    """Folder of the ground truth boxes, None where the data set has none."""
    found = boxes_digest(read_sources(staged))
    if not found:
        return None
    basis = boxes_basis(state.index, found, state.run.config.runtime.shard_images)
    return keys.stage_folder(state.run.workspace, BOXES, basis), basis


def tell_news(news: News | None) -> None:
    """Say what is other than in the last run, a few names of each."""
    if news is None:
        return
    for what, names in (("new", news.added), ("gone", news.removed), ("changed", news.changed)):
        if names:
            told = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            print(f"stage      {len(names)} {what} since the last run: {told}", file=sys.stderr)


@flow(name="stage", validate_parameters=False, persist_result=False)
def stage_flow(state: State) -> None:
    """Bring the index and the ground truth of a run up to date."""
    run = state.run
    listing, stamps, basis = list_dataset(run)
    folder = keys.stage_folder(run.workspace, "stage", basis)
    shards = -(-len(listing.samples) // STAGE_SHARD)
    folder.begin(basis, shards=shards, classes=listing.classes)
    done = run_work(InspectWork(run, folder, listing, stamps), state.workers, shards)
    if not folder.log.path(INDEX_UNIT).exists():
        before = earlier_index(run.workspace)
        index = finish_staging(run, folder, listing.classes, before)
        state.news = compare(before, index) if before else None
        tell_news(state.news)
    state.staged, state.index = folder, staged_index(folder)
    data = (folder.folder / "images.parquet").read_bytes()
    if not run.workspace.index_path.exists() or run.workspace.index_path.read_bytes() != data:
        write_bytes_atomic(run.workspace.index_path, data)
    state.done["stage"] = done

    if found_boxes := box_folder(state, folder):
        state.boxes, box_basis = found_boxes
        state.boxes.begin(box_basis, shards=state.shards, classes=state.index.classes, index_stage=folder.name)
        boxes = BoxWork(run, state.boxes, state.index, read_sources(folder))
        state.done["boxes"] = run_work(boxes, state.workers, state.shards)
    if found := truth_folder(run, folder):
        state.truth, truth_basis = found
        begin_truth(state.truth, truth_basis, state.index, folder.name)
        work = TruthWork(run, state.truth, state.index, read_sources(folder))
        state.done["truth"] = run_work(work, state.workers, state.shards)
    check_sweep(state)
    check_decoders(state)
    check_segmenters(state)
