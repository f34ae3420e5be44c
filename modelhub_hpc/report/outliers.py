"""Which of many volumes stand out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LIMIT = 3.5  # of the robust z
LEAST = 5  # volumes without which nothing can be said
RULE = (
    f"A volume is an outlier where |z| > {LIMIT}: z = 0.6745 (ln v - median) / MAD, with the median and the median "
    "absolute deviation of ln v over all cases in which the structure is there. Where MAD is 0, the mean absolute "
    f"deviation takes its place (z = 0.7979 (ln v - median) / mean). Below {LEAST} cases nothing is flagged."
)


def robust_z(volumes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far each of some volumes above 0 stands out, by RULE; 0 where nothing can be said.

    Logarithms, since volumes spread by factors: a tenth of the usual is as odd as ten times as much.
    """
    if len(volumes) < LEAST:
        return np.zeros(len(volumes))
    away = np.log(volumes)
    away -= np.median(away)
    middle, mean = float(np.median(np.abs(away))), float(np.mean(np.abs(away)))
    if middle > 1e-12:
        scaled: npt.NDArray[np.float64] = 0.6745 * away / middle
    elif mean > 1e-12:
        scaled = 0.7979 * away / mean
    else:
        scaled = np.zeros(len(volumes))
    return scaled
