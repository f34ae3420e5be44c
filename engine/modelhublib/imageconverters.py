"""Converters: a chain in which each one tries to turn an image into an array and hands on to the next."""

from .errors import explain


class ImageConverter(object):
    """One link of the chain. Write `_convert` for an image type of your own."""

    # Contributions may write an __init__ that doesn't call this one.
    _successor = None

    def __init__(self, successor=None):
        """successor: the converter to ask when this one fails."""
        self._successor = successor

    def setSuccessor(self, successor):
        """Set the converter to ask when this one fails."""
        self._successor = successor

    def convert(self, image):
        """Return what the first converter that can makes of image; IOError with every reason if none can."""
        try:
            return self._convert(image)
        except MemoryError:
            raise
        except Exception as error:
            reason = explain(self, error)
        return self._convert_by_successor(image, reason)

    def _convert(self, image):
        raise NotImplementedError("A converter has to say how it converts")

    def _convert_by_successor(self, image, reason):
        later = []
        if self._successor is not None:
            try:
                return self._successor.convert(image)
            except IOError as error:
                later = getattr(error, "reasons", [str(error)])
        raise _nobody_can_convert(image, [reason] + later)


class PilToNumpyConverter(ImageConverter):
    """PIL.Image -> float32 (1, bands, height, width); a palette image gives its indices."""

    def _convert(self, image):
        import numpy
        import PIL.Image
        if not isinstance(image, PIL.Image.Image):
            raise IOError("not a PIL image")
        image.load()  # pixels are read only now; asked for here, a damaged file says what is wrong
        array = numpy.asarray(image)
        array = array[numpy.newaxis] if array.ndim == 2 else array.transpose((2, 0, 1))
        return array[numpy.newaxis].astype(numpy.float32)


class SitkToNumpyConverter(ImageConverter):
    """SimpleITK.Image -> float32 (1, z, y, x); z is 1 for a plane."""

    def _convert(self, image):
        import numpy
        import SimpleITK
        if not isinstance(image, SimpleITK.Image):
            raise IOError("not a SimpleITK image")
        array = SimpleITK.GetArrayFromImage(image)
        if image.GetDimension() == 2:
            array = array[numpy.newaxis]
        return array[numpy.newaxis].astype(numpy.float32)


class NumpyToNumpyConverter(ImageConverter):
    """An array stays the very array it is."""

    def _convert(self, image):
        import numpy
        if not isinstance(image, numpy.ndarray):
            raise IOError("not a numpy array")
        return image


def _nobody_can_convert(image, reasons):
    error = IOError('Could not convert image of type "%s" to Numpy array.\n%s'
                    % (type(image), "\n".join("  " + reason for reason in reasons)))
    error.reasons = reasons
    return error
