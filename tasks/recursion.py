"""Recursion without ground truth: which round comes next, and when rounds no longer change the masks."""

import numpy as np

from configs.segmentation import Segmenter
from storage import keys
from tasks.metrics import pooled
from tasks.state import State


def next_round(state: State) -> Segmenter | None:
    """The training of the round that follows those of a state; None where the last has been."""
    recurse = state.run.config.recurse
    if recurse is None:
        return None
    done = len(state.round_changes)
    if done == recurse.rounds or (done and changed_share(state, recurse.round(done)) <= recurse.stop):
        return None
    return recurse.round(done + 1)


def changed_share(state: State, training: Segmenter) -> float:
    """Share of the training images' pixels, known before and after, whose label a round changed; 0 without any."""
    frame = state.round_changes[training.title].table().to_pandas()
    rows = keys.rows_of(state.index, training.split)
    counts = pooled(frame[frame["row"].isin(rows)], len(state.index.classes) + 1)[:, :-1]
    total = int(counts.sum())
    return (total - int(np.diagonal(counts).sum())) / total if total else 0.0
