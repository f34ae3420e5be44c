"""Its pictures are grey and of 8 x 8 pixels before they are arrays."""

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        return image.convert("L").resize((8, 8))

    def computeOutput(self, inferenceResults, labels):
        return [{"label": labels[str(index)], "probability": probability}
                for index, probability in enumerate(inferenceResults)]
