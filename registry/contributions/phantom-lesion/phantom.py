"""Makes slices of an abdomen with lesions in one organ, with the grey values of CT.

They look like a CT slice to a network, and to nobody else: ellipses with the grey values of tissues.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

AIR, FAT, ORGAN = -1000.0, -90.0, 105.0  # Hounsfield units
NOISE = 14.0


@dataclass(frozen=True)
class Phantom:
    """hounsfield: (y, x) int16; lesions: (y, x) bool."""

    hounsfield: NDArray[np.int16]
    lesions: NDArray[np.bool_]


def make(random: np.random.Generator, size: tuple[int, int] = (72, 72), lesions: int | None = None) -> Phantom:
    """A body with an organ that has none to three lesions; vessels and cysts are none. size: rows, columns."""
    y, x = np.indices(size) - (np.array(size) - 1)[:, np.newaxis, np.newaxis] / 2
    half = 0.47 * min(size)
    body = _ellipse(y, x, (0, 0), half * random.uniform(0.85, 1, 2), random.uniform(0, np.pi))
    image = np.where(body < 1, FAT, AIR)
    centre, radii = random.uniform(-0.1, 0.1, 2) * half, half * random.uniform(0.6, 0.75, 2)
    organ = _ellipse(y, x, centre, radii, random.uniform(0, np.pi))
    image = _blend(image, organ, radii.min(), ORGAN + random.uniform(-10, 10))
    level = image[organ < 0.7].mean()
    found = np.zeros(size, bool)
    count = int(random.integers(0, 4)) if lesions is None else lesions
    kinds = ["vessel"] * int(random.integers(1, 4)) + ["cyst"] * int(random.integers(0, 2)) + ["lesion"] * count
    taken: list[tuple[Floats, float]] = []
    for kind in kinds:
        radius = random.uniform(1.5, 2.5) if kind == "vessel" else random.uniform(0.07, 0.17) * half + 1.0
        place = _free(random, taken, centre, radii.min() * 0.85, radius)
        if place is None:
            continue
        contrast = {
            "vessel": random.uniform(50, 80),
            "cyst": -level + random.uniform(-5, 10),
            "lesion": -random.uniform(40, 65),
        }[kind]
        semi = radius * random.uniform(0.85, 1.15, 2)
        shape = _ellipse(y, x, place, semi, random.uniform(0, np.pi))
        image = _blend(image, shape, semi.min(), level + contrast)
        if kind == "lesion":
            found |= shape < 1
    noisy = image + random.normal(0, NOISE, size)
    return Phantom(np.rint(noisy.clip(-1024, 3000)).astype(np.int16), found)


def _ellipse(y: Floats, x: Floats, centre: Floats | tuple[int, int], radii: Floats, angle: float) -> Floats:
    """Distance from the centre, in radii: 1 on the edge."""
    dy, dx = y - centre[0], x - centre[1]
    along, across = np.cos(angle) * dy - np.sin(angle) * dx, np.sin(angle) * dy + np.cos(angle) * dx
    distance: Floats = np.hypot(along / radii[0], across / radii[1])
    return distance


def _blend(image: Floats, distance: Floats, radius: float, value: float) -> Floats:
    """The shape in the image, its edge one pixel wide."""
    share = np.clip(0.5 + (1 - distance) * radius, 0, 1)
    blended: Floats = image + share * (value - image)
    return blended


def _free(
    random: np.random.Generator, taken: list[tuple[Floats, float]], centre: Floats, room: float, radius: float
) -> Floats | None:
    """A place in the organ where nothing lies yet; None where there is hardly one."""
    for _ in range(50):
        angle, distance = random.uniform(0, 2 * np.pi), np.sqrt(random.uniform(0, 1)) * max(room - 1.3 * radius, 0)
        place = centre + distance * np.array([np.sin(angle), np.cos(angle)])
        if all(np.hypot(*(place - other)) > 1.3 * (radius + size) + 1 for other, size in taken):
            taken.append((place, radius))
            return place
    return None
