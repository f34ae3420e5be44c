"""Makes brain phantoms with a tumour in four MR contrasts, placed in the patient like a real scan.

They look like a brain tumour study to a network, and to nobody else: ellipsoids with the grey values of tissues.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONTRASTS = ("t1", "t1c", "t2", "flair")
CORE, OEDEMA, ENHANCING = 1, 2, 4
# Grey values by contrast. A vessel enhances as the tumour does, fluid is as bright in T2 as oedema: neither contrast
# tells the tumour alone.
GREY = {
    "grey matter": (0.60, 0.62, 0.50, 0.50),
    "white matter": (0.75, 0.77, 0.40, 0.42),
    "fluid": (0.25, 0.27, 0.95, 0.15),
    "vessel": (0.60, 0.95, 0.45, 0.45),
    "oedema": (0.50, 0.52, 0.80, 0.85),
    "enhancing": (0.55, 1.00, 0.65, 0.70),
    "core": (0.35, 0.36, 0.75, 0.60),
}
NOISE = 0.05


@dataclass(frozen=True)
class Grid:
    """A grid of voxels: x, y, z order; LPS world axes, mm; columns of direction are the voxel axes."""

    size: tuple[int, int, int]
    spacing: Floats
    origin: Floats
    direction: Floats

    def positions(self) -> Floats:
        """Where each voxel lies: (z, y, x, 3), mm."""
        z, y, x = np.indices(self.size[::-1])
        return self.origin + (np.stack([x, y, z], axis=-1) * self.spacing) @ self.direction.T

    def at(self, index: Floats) -> Floats:
        """Where a place between voxels lies, mm."""
        return self.origin + self.direction @ (self.spacing * index)

    def centre(self) -> Floats:
        return self.at((np.array(self.size) - 1) / 2)

    def extent(self) -> Floats:
        return self.spacing * self.size


@dataclass(frozen=True)
class Phantom:
    """images: by contrast, (z, y, x) float32; labels: (z, y, x) uint8; centre: that of the tumour, mm, LPS."""

    grid: Grid
    images: dict[str, NDArray[np.float32]]
    labels: NDArray[np.uint8]
    centre: Floats


def random_grid(random: np.random.Generator, size: tuple[int, int, int] | None = None) -> Grid:
    """Oblique, anisotropic, somewhere, sometimes mirrored; about 70 mm along each axis."""
    chosen = size or tuple(int(n) for n in random.integers(20, 31, 3))
    extent = random.uniform(60, 80, 3)
    turn, _ = np.linalg.qr(random.standard_normal((3, 3)))
    return Grid(chosen, extent / chosen, random.uniform(-100, 100, 3), turn)


def make(random: np.random.Generator, grid: Grid) -> Phantom:
    """A head that fills most of the grid, with one tumour somewhere in it."""
    positions = grid.positions() - grid.centre()
    half = 0.46 * grid.extent().min()
    axes, _ = np.linalg.qr(random.standard_normal((3, 3)))
    shape = random.uniform(0.85, 1.0, 3)
    head = _Ellipsoid(np.zeros(3), half * shape, axes)
    centre = axes @ (_direction(random) * half * shape * random.uniform(0.25, 0.45))
    radii = random.uniform(0.36, 0.48) * half * random.uniform(0.85, 1.15, 3)
    tumour, _ = np.linalg.qr(random.standard_normal((3, 3)))
    rim, inner = random.uniform(0.72, 0.8), random.uniform(0.48, 0.56)
    fluid = _Ellipsoid(-0.4 * centre, half * random.uniform(0.12, 0.22, 3), axes)
    vessel = _Ellipsoid(_direction(random) * half * 0.6, half * np.array([0.06, 0.06, 0.35]), tumour)
    layers = [
        ("grey matter", head),
        ("white matter", _Ellipsoid(np.zeros(3), head.radii * 0.8, axes)),
        ("fluid", fluid),
        ("vessel", vessel),
        ("oedema", _Ellipsoid(centre, radii, tumour)),
        ("enhancing", _Ellipsoid(centre, radii * rim, tumour)),
        ("core", _Ellipsoid(centre, radii * inner, tumour)),
    ]
    images = np.zeros((len(CONTRASTS), *positions.shape[:3]))
    labels = np.zeros(positions.shape[:3], np.uint8)
    numbers = {"oedema": OEDEMA, "enhancing": ENHANCING, "core": CORE}
    for name, body in layers:
        rho = body.distance(positions)
        share = np.clip(0.5 + (1 - rho) * body.radii.min() / grid.spacing.min(), 0, 1)
        grey = np.array(GREY[name]) * random.uniform(0.93, 1.07, len(CONTRASTS))
        images += share * (grey[:, np.newaxis, np.newaxis, np.newaxis] - images)
        labels[rho < 1] = numbers.get(name, 0)
    images = _as_scanned(random, images, positions / half)
    return Phantom(grid, dict(zip(CONTRASTS, images)), labels, grid.centre() + centre)


@dataclass(frozen=True)
class _Ellipsoid:
    centre: Floats
    radii: Floats
    axes: Floats

    def distance(self, positions: Floats) -> Floats:
        """From the centre, in radii: 1 on the surface."""
        distance: Floats = np.linalg.norm((positions - self.centre) @ self.axes / self.radii, axis=-1)
        return distance


def _direction(random: np.random.Generator) -> Floats:
    vector = random.standard_normal(3)
    unit: Floats = vector / np.linalg.norm(vector)
    return unit


def _as_scanned(random: np.random.Generator, images: Floats, positions: Floats) -> NDArray[np.float32]:
    """With a slow drift of brightness, noise, and a scale of its own for each contrast."""
    for image in images:
        image *= 1 + positions @ (_direction(random) * 0.08)
        image += random.normal(0, NOISE, image.shape)
        np.maximum(image, 0, out=image)
        image *= random.uniform(100, 1000)
    return images.astype(np.float32)
