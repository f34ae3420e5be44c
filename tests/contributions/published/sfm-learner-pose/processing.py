from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessAfterConversionToNumpy(self, npArr):
        return npArr[0].transpose((1, 2, 0))

    def computeOutput(self, inferenceResults):
        return inferenceResults
