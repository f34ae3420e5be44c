from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def computeOutput(self, inferenceResults):
        names = ("low risk", "high risk")
        return [{"label": name, "probability": float(p)} for name, p in zip(names, inferenceResults)]
