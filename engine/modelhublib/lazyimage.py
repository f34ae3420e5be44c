"""Pictures of Pillow whose pixels were decoded elsewhere, and that nobody can tell from those just opened.

Pillow decodes when pixels are first asked for, and until then an image can be asked for less of them (draft), so one
that is loaded already would give other results.
"""

_FORMATS = ("JPEG", "PNG")  # one frame, decoded as a whole
_classes = {}


def prepare(path):
    """Return (image, bytes of its pixels) of a file, decoded; None for a format that may hold several frames."""
    import PIL.Image
    image = PIL.Image.open(path)
    if image.format not in _FORMATS or getattr(image, "n_frames", 1) > 1:
        image.close()
        return None
    decoded = PIL.Image.open(path)
    decoded.load()
    image._decoded, image._opened_as = decoded, _state(image)
    image.__class__ = _class_of(image.__class__)
    return image, image.size[0] * image.size[1] * len(image.getbands())


class _Decoded(object):
    """Mixed into the class of an image until its pixels are asked for; then it is what it always was."""

    def load(self):
        self._settle()
        return self.load()

    def __reduce_ex__(self, protocol):
        self._settle()
        return self.__reduce_ex__(protocol)

    def _settle(self):
        decoded, opened_as = self.__dict__.pop("_decoded"), self.__dict__.pop("_opened_as")
        self.__class__ = decoded.__class__
        if _state(self) == opened_as:
            self.fp.close()
            self.__dict__.update(decoded.__dict__)


def _class_of(plain):
    if plain not in _classes:
        _classes[plain] = type(plain.__name__, (_Decoded, plain), {"__module__": plain.__module__})
    return _classes[plain]


def _state(image):
    """Return what decides how an image will be decoded, and that callers may have changed since it was opened."""
    return (image.size, image.mode, list(image.tile), getattr(image, "decoderconfig", None), dict(image.info),
            image.fp is None)
