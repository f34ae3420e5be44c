"""What lies between an image file and the digits-embedding network."""

import numpy
from PIL import Image
from modelhublib.processor import ImageProcessorBase

SIDE = 8  # pixels, rows and columns of the network's input


class ImageProcessor(ImageProcessorBase):
    """Any picture of one digit, bright on dark -> float32 (1, 1, 8, 8), 0 to 1."""

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, Image.Image):
            raise IOError("this model reads PNG and JPEG files, not %s" % type(image).__name__)
        grey = to_grey(image)
        if grey.size != (SIDE, SIDE):
            # The mean over each of 8 x 8 areas; an enlarged scan gives the scan back.
            grey = grey.resize((SIDE, SIDE), Image.BOX)
        return grey

    def _preprocessAfterConversionToNumpy(self, npArr):
        return npArr.astype(numpy.float32).reshape(1, 1, SIDE, SIDE) / numpy.float32(255)

    def computeOutput(self, inferenceResults):
        """Return the features of the only image."""
        return inferenceResults[0]


def to_grey(image):
    """An 8-bit grey image. 16-bit greys are scaled: Pillow would clip them. What is transparent is dark."""
    if image.mode.startswith("I"):
        return Image.fromarray((numpy.asarray(image) // 257).astype(numpy.uint8))
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("L")
