import numpy as np

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if not isinstance(image, np.ndarray):
            raise IOError("Image Type not supported for preprocessing.")
        crop = image[50:100, 50:100, 50:100].astype(np.float32)
        return (crop + 1024) / 4096

    def computeOutput(self, inferenceResults):
        survival, features = inferenceResults
        names = ("Death", "Survival")
        labels = [{"label": name, "probability": float(p)} for name, p in zip(names, (1 - survival, survival))]
        return [labels, features.tolist()]
