"""Compiled kernels of the permutohedral lattice: the arithmetic of the plain ones in lattice.py, bit for bit.

Only lattice.py imports this file, and only where numba is installed. Additions run in the same order as there and no
flag allows the compiler to change it.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from methods.losses.lattice import AXES, CORNERS, Doubles, Floats, Indices, Integers, axis_offsets

Function = TypeVar("Function", bound=Callable[..., Any])
SIXTH = np.float32(1 / CORNERS)
SIX = np.float32(CORNERS)
ONE = np.float32(1)
SLICE = 1 + 2.0**-AXES
FEW = 1 << 12
"""Places of the first table of corners; a small one stays in the cache."""
MIX = np.uint64(0x9E3779B97F4A7C15)
EMPTY = -1


def compiled(function: Function) -> Function:
    """Compile without holding the interpreter's lock, and keep the machine code between processes where that can be."""
    try:
        made = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither the source's folder nor the user's cache can be written
        made = numba.njit(nogil=True)(function)
    return cast(Function, made)


@compiled
def geometry(features: Floats, scales: Floats) -> tuple[Indices, Indices, Floats]:
    """Simplex of every point: see plain_geometry."""
    points = len(features)
    multiples = np.empty((points, CORNERS), np.int32)
    ranks = np.empty((points, CORNERS), np.int32)
    weights = np.empty((points, CORNERS), np.float32)
    elevated = np.empty(CORNERS, np.float32)
    residuals = np.empty(CORNERS, np.float32)
    shares = np.empty(CORNERS + 1, np.float32)
    for point in range(points):
        running = np.float32(0)
        for axis in range(AXES, 0, -1):
            scaled = features[point, axis - 1] * scales[axis - 1]
            elevated[axis] = running - np.float32(axis) * scaled
            running += scaled
        elevated[0] = running

        excess = np.int32(0)
        for place in range(CORNERS):
            step = np.rint(elevated[place] * SIXTH)
            residuals[place] = elevated[place] - step * SIX
            multiples[point, place] = np.int32(step)
            excess += np.int32(step)
            ranks[point, place] = 0
        for first in range(CORNERS):
            for second in range(first + 1, CORNERS):
                smaller = np.int32(residuals[first] < residuals[second])
                ranks[point, first] += smaller
                ranks[point, second] += 1 - smaller

        shares[:] = 0
        for place in range(CORNERS):
            rank = ranks[point, place] + excess
            turn = np.int32(rank < 0) - np.int32(rank > AXES)
            rank += CORNERS * turn
            multiple = CORNERS * (multiples[point, place] + turn)
            ranks[point, place] = rank
            multiples[point, place] = multiple
            share = (elevated[place] - np.float32(multiple)) * SIXTH
            shares[AXES - rank] += share
            shares[CORNERS - rank] -= share
        shares[0] += ONE + shares[CORNERS]
        weights[point] = shares[:CORNERS]
    return multiples, ranks, weights


@compiled
def same_row(rows: Indices, row: int) -> bool:
    """Whether a row equals the one before."""
    for column in range(rows.shape[1]):  # noqa: SIM110 - numba compiles no generators
        if rows[row, column] != rows[row - 1, column]:
            return False
    return True


@compiled
def find(table: Integers, number: np.int64) -> np.int64:
    """Place in the table of [number, index] where a number is, or would go."""
    mask = len(table) - 1
    place: np.int64 = np.int64((np.uint64(number) * MIX) >> np.uint64(32)) & mask
    while table[place, 1] != EMPTY and table[place, 0] != number:
        place = (place + 1) & mask
    return place


@compiled
def doubled(table: Integers) -> Integers:
    """The same entries with twice the places."""
    larger = np.full((2 * len(table), 2), EMPTY, np.int64)
    for place in range(len(table)):
        if table[place, 1] != EMPTY:
            larger[find(larger, table[place, 0])] = table[place]
    return larger


@compiled
def enumerate_corners(
    multiples: Indices, ranks: Indices, strides: Integers, start: Integers
) -> tuple[Indices, Integers, int]:
    """Index of every point's corners, numbered as they come, the table that knows them, and how many there are."""
    vertices = np.empty(multiples.shape, np.int32)
    table = np.full((FEW, 2), EMPTY, np.int64)
    strides_by_rank = np.empty(CORNERS, np.int64)
    count, together = 0, strides.sum()
    for point in range(len(multiples)):
        if point and same_row(multiples, point) and same_row(ranks, point):  # neighbours often share their simplex
            vertices[point] = vertices[point - 1]
            continue
        number = np.int64(0)
        for axis in range(AXES):
            number += (multiples[point, axis] - start[axis]) * strides[axis]
            strides_by_rank[ranks[point, axis]] = strides[axis]
        strides_by_rank[ranks[point, AXES]] = 0
        for corner in range(CORNERS):
            if corner:
                number += together - CORNERS * strides_by_rank[CORNERS - corner]
            place = find(table, number)
            if table[place, 1] == EMPTY:
                table[place, 0] = number
                table[place, 1] = count
                count += 1
            vertices[point, corner] = table[place, 1]
        if 2 * (count + CORNERS) > len(table):
            table = doubled(table)
    return vertices, table, count


@compiled
def link_corners(table: Integers, count: int, offsets: Integers) -> Indices:
    """The next corner along every axis."""
    neighbours = np.empty((CORNERS, count), np.int32)
    for entry in range(len(table)):
        if table[entry, 1] == EMPTY:
            continue
        for axis in range(CORNERS):
            index = table[find(table, table[entry, 0] + offsets[axis]), 1]
            neighbours[axis, table[entry, 1]] = count if index == EMPTY else index
    return neighbours


def corners(multiples: Indices, ranks: Indices, strides: Integers, start: Integers) -> tuple[Indices, Indices]:
    """Corners of every point and the neighbour of every corner: see plain_corners, whose order is another."""
    vertices, table, count = enumerate_corners(multiples, ranks, strides, start)
    return vertices, link_corners(table, count, axis_offsets(strides))


@compiled
def filter_values(values: Doubles, vertices: Indices, weights: Floats, neighbours: Indices) -> Doubles:
    """Splat, blur, slice: see plain_filter."""
    points, classes = values.shape
    count = neighbours.shape[1]
    nodes, blurred = np.zeros((count + 1, classes)), np.zeros((count + 1, classes))
    for point in range(points):
        for corner in range(CORNERS):
            node, weight = vertices[point, corner], np.float64(weights[point, corner])
            for k in range(classes):
                nodes[node, k] += weight * values[point, k]
    backward = np.empty(count + 1, np.int32)
    for axis in range(CORNERS):
        forward = neighbours[axis]
        backward[:] = count
        for node in range(count):
            backward[forward[node]] = node
        for node in range(count):
            for k in range(classes):
                blurred[node, k] = nodes[node, k] + 0.5 * (nodes[forward[node], k] + nodes[backward[node], k])
        nodes, blurred = blurred, nodes
    sliced = np.zeros((points, classes))
    for point in range(points):
        for corner in range(CORNERS):
            node, weight = vertices[point, corner], np.float64(weights[point, corner])
            for k in range(classes):
                sliced[point, k] += weight * nodes[node, k]
        for k in range(classes):
            sliced[point, k] /= SLICE
    return sliced
