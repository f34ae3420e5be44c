"""The outlines of a mask, along the edges of its pixels."""

import numpy


def closed_outlines(mask):
    """Return a list of closed outlines [[x, y], ...], in pixels: [0, 0] is the centre of the first one.

    The last point is followed by the first, which is not repeated. Lesions have a positive signed area, holes in
    them a negative one.
    """
    following = _edges(mask)
    outlines = []
    while following:
        start = min(following)
        outline, point = [], start
        while not outline or point != start:
            outline.append(point)
            followers = following[point]
            # where two pixels touch at a corner two edges leave it: either closes an outline
            point = followers.pop()
            if not followers:
                del following[outline[-1]]
        outlines.append([[x - 0.5, y - 0.5] for x, y in _corners(outline)])
    return outlines


def signed_area(outline):
    """Return the area within an outline, in pixels."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(outline, outline[1:] + outline[:1])) / 2


def _edges(mask):
    """Return {corner: the corners that edges lead to}, with what is set to the same side of every edge."""
    padded = numpy.pad(mask, 1, mode="constant").astype(bool)
    here = padded[1:-1, 1:-1]
    following = {}
    for neighbour, start, end in (
            (padded[:-2, 1:-1], (0, 0), (1, 0)), (padded[1:-1, 2:], (1, 0), (1, 1)),
            (padded[2:, 1:-1], (1, 1), (0, 1)), (padded[1:-1, :-2], (0, 1), (0, 0))):
        for y, x in numpy.argwhere(here & ~neighbour).tolist():
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    return following


def _corners(outline):
    """Return the points at which the outline turns."""
    before, after = outline[-1:] + outline[:-1], outline[1:] + outline[:1]
    return [point for last, point, following in zip(before, outline, after)
            if (point[0] - last[0], point[1] - last[1]) != (following[0] - point[0], following[1] - point[1])]
