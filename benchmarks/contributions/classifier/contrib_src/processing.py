"""What lies between a photograph and a classifier of 1,000 classes."""
import numpy
from PIL import Image
from modelhublib.processor import ImageProcessorBase

SHORT, SIDE = 256, 224  # pixels: the shorter side after resizing, and both sides of what is cut out of the middle
MEAN = numpy.array([0.485, 0.456, 0.406], numpy.float32).reshape(3, 1, 1)
DEVIATION = numpy.array([0.229, 0.224, 0.225], numpy.float32).reshape(3, 1, 1)
LABELS = ["synthetic class %03d" % number for number in range(1000)]


class ImageProcessor(ImageProcessorBase):
    """Any photograph -> float32 (1, 3, 224, 224), normalised; probabilities (1000,) -> a list of labels."""

    def loadBatch(self, inputs):
        """Return the network's input for several files: float32 (n, 3, 224, 224)."""
        return numpy.concatenate([self.loadAndPreprocess(input) for input in inputs])

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, Image.Image):
            raise IOError("this model reads photographs, not %s" % type(image).__name__)
        image = image.convert("RGB")
        scale = SHORT / float(min(image.size))
        width, height = [int(round(scale * side)) for side in image.size]
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        return image.resize((width, height), Image.BILINEAR).crop((left, top, left + SIDE, top + SIDE))

    def _preprocessAfterConversionToNumpy(self, npArr):
        return (npArr / numpy.float32(255) - MEAN) / DEVIATION

    def computeOutput(self, inferenceResults):
        return [{"label": label, "probability": float(probability)}
                for label, probability in zip(LABELS, inferenceResults)]
