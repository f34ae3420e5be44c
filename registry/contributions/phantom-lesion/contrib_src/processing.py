"""What lies between a DICOM slice and the phantom-lesion network, and between its result and the five outputs."""

import numpy
import SimpleITK
from modelhublib.processor import ImageProcessorBase

from outlines import closed_outlines, signed_area
from windowing import windowed

THRESHOLD = 0.5


class ImageProcessor(ImageProcessorBase):
    """A DICOM slice -> float32 (1, 1, y, x) -> mask, probability, outline, overlay, measurements."""

    def loadSlice(self, input):
        """Return the slice as a SimpleITK image with one plane; IOError for what is none."""
        image = self._load(input)
        if not isinstance(image, SimpleITK.Image) or image.GetNumberOfComponentsPerPixel() != 1:
            raise IOError("this model reads one DICOM slice in grey")
        return image if image.GetDimension() == 3 else SimpleITK.JoinSeries(image)

    def networkInput(self, image):
        return windowed(SimpleITK.GetArrayFromImage(image))[numpy.newaxis]

    def computeOutput(self, inferenceResults, image):
        """Return the outputs in the order of config.json."""
        probability = inferenceResults[0, 1]
        mask = probability >= THRESHOLD
        outlines = closed_outlines(mask)
        hounsfield = SimpleITK.GetArrayFromImage(image)[0]
        return [mask.astype(numpy.uint8), probability, outlines, _overlay(hounsfield, mask),
                _measurements(outlines, mask, hounsfield, image)]


def _overlay(hounsfield, mask):
    """Return the window as uint8 (y, x, 3), with lesions tinted red."""
    grey = (windowed(hounsfield) + 1) * 127.5
    colours = numpy.stack([grey] * 3, axis=-1)
    colours[mask] = 0.6 * colours[mask] + 0.4 * numpy.array([255, 0, 0])
    return numpy.rint(colours).astype(numpy.uint8)


def _measurements(outlines, mask, hounsfield, image):
    """Return what is known of each lesion, largest first, and of all of them. Places are LPS, mm."""
    pixel = image.GetSpacing()[0] * image.GetSpacing()[1]
    lesions = [{"area_mm2": signed_area(outline) * pixel, "centre_mm": _centre(outline, image)}
               for outline in outlines if signed_area(outline) > 0]  # a hole's is negative
    return {
        "lesions": sorted(lesions, key=lambda lesion: -lesion["area_mm2"]),
        "area_mm2": float(mask.sum()) * pixel,
        "mean_hounsfield": float(hounsfield[mask].mean()) if mask.any() else None,
    }


def _centre(outline, image):
    """Return the place of the centre of mass within an outline."""
    twice, x, y = 0.0, 0.0, 0.0
    for (x0, y0), (x1, y1) in zip(outline, outline[1:] + outline[:1]):
        cross = x0 * y1 - x1 * y0
        twice, x, y = twice + cross, x + (x0 + x1) * cross, y + (y0 + y1) * cross
    place = image.TransformContinuousIndexToPhysicalPoint([x / (3 * twice), y / (3 * twice), 0.0])
    return [float(each) for each in place]
