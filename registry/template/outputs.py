"""Stand-ins for a network, one for each type of output: what can be said of how bright an image is.

Each becomes a part of a new contribution's processing.py. image: a float32 array, (y, x) or (z, y, x).
"""

import json

import numpy


def label_list(image):
    """Return how much of the image lies below its mean, and how much above, by the names in labels.json."""
    with open("model/labels.json") as stream:
        labels = json.load(stream)
    above = float(numpy.mean(image > image.mean()))
    return [{"label": labels["0"], "probability": 1 - above}, {"label": labels["1"], "probability": above}]


def contour(image):
    """Return the box around what is brighter than the mean, as a list of contours [[x, y], ...]."""
    bright = numpy.argwhere(image > image.mean())[:, -2:]
    if not len(bright):
        return []
    (top, left), (bottom, right) = bright.min(axis=0).tolist(), bright.max(axis=0).tolist()
    return [[[left, top], [right, top], [right, bottom], [left, bottom]]]


def vector(image):
    """Return the darkest, the mean and the brightest value."""
    return numpy.array([image.min(), image.mean(), image.max()], numpy.float32)


def mask_image(image):
    """Return 1 where the image is brighter than its mean, else 0, in its shape."""
    return (image > image.mean()).astype(numpy.uint8)


def heatmap(image):
    """Return 0 where the image is darkest to 1 where it is brightest, in its shape."""
    return (image - image.min()) / max(image.max() - image.min(), numpy.float32(1e-6))


def image(image):
    """Return the negative of the image."""
    return image.max() + image.min() - image


def custom(image):
    """Return where the image is brightest, and its value there."""
    place = numpy.unravel_index(int(image.argmax()), image.shape)
    return {"index": [int(number) for number in place], "value": float(image.max())}
