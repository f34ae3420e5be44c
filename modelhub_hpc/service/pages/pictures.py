"""Small pictures of models and samples."""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path
from typing import Any

import flask
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from werkzeug.wrappers import Response

_MOST_BYTES = 16 << 20
_SIDE = 480


def reply(png: bytes, for_s: int = 0) -> Response:
    """for_s: how long the browser may use it again without asking."""
    response = flask.Response(png, mimetype="image/png")
    if for_s:
        response.headers["Cache-Control"] = f"private, max-age={for_s}"
    return response


def thumbnail(folder: Path) -> bytes | None:
    """The thumbnail of a contribution, as a PNG made here; None where it has none that can be read."""
    names = [each for each in (folder / "contrib_src/model").glob("thumbnail.*") if each.is_file()]
    return _smaller(str(names[0]), names[0].stat().st_mtime_ns) if names else None


@functools.lru_cache(maxsize=128)
def _smaller(path: str, changed: int) -> bytes | None:
    """changed: when the file was, so that another one is read anew."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if Path(path).stat().st_size > _MOST_BYTES:
                return None
            with Image.open(path) as picture:
                picture.thumbnail((_SIDE, _SIDE))
                target = io.BytesIO()
                picture.convert("RGB").save(target, "PNG")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombWarning):
        return None
    except Image.DecompressionBombError:
        return None
    return target.getvalue()


def square(pixels: npt.NDArray[np.uint8], steps: tuple[float, float], side: int) -> npt.NDArray[Any]:
    """A slice in the middle of a black square; steps: mm between rows and columns, which give its proportions."""
    height, width = pixels.shape[0] * steps[0], pixels.shape[1] * steps[1]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = max(pixels.shape[:2]) < side / 2
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    picture = picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    ground = Image.new("RGB", (side, side))
    ground.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(ground)
