"""What several masks say together: by majority, by STAPLE, and where they disagree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.errors import UnfitError

Voxels = npt.NDArray[Any]


def majority(masks: Sequence[Voxels]) -> Voxels:
    """The label that most have, voxel by voxel; background (0) where there is no single one.

    Of two masks that is wherever they differ.
    """
    voting = _simpleitk().LabelVotingImageFilter()
    voting.SetLabelForUndecidedPixels(0)
    return _combined(voting, masks)


def staple(masks: Sequence[Voxels]) -> Voxels:
    """The label that is most probable if each mask is weighed by how reliable it turns out to be, label by label.

    Of Warfield, Zou and Wells 2004, for several labels; background (0) where several are as probable.
    """
    filter = _simpleitk().MultiLabelSTAPLEImageFilter()
    filter.SetLabelForUndecidedPixels(0)
    return _combined(filter, masks)


METHODS: Mapping[str, Callable[[Sequence[Voxels]], Voxels]] = {"majority": majority, "staple": staple}


def _combined(filter: Any, masks: Sequence[Voxels]) -> Voxels:
    sitk = _simpleitk()
    images = [sitk.GetImageFromArray(np.ascontiguousarray(each)) for each in masks]
    found: Voxels = sitk.GetArrayFromImage(filter.Execute(images))
    return found


def deviating(masks: Sequence[Voxels], labels: int) -> npt.NDArray[np.uint8]:
    """How many masks have another label than most, voxel by voxel; labels: the largest one."""
    most = np.zeros(masks[0].shape, np.uint8)
    for label in range(labels + 1):
        np.maximum(most, np.sum([mask == label for mask in masks], axis=0, dtype=np.uint8), out=most)
    return np.subtract(len(masks), most, dtype=np.uint8)


def _simpleitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise UnfitError("A consensus needs SimpleITK:  pip install 'modelhub-hpc[results]'") from error
    return SimpleITK
