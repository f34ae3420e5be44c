import numpy as np

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessAfterConversionToNumpy(self, npArr):
        self.inputSize = npArr.shape[2:]
        padded = np.zeros((1, 1, 572, 572), dtype=np.float32)
        padded[:, :, :self.inputSize[0], :self.inputSize[1]] = npArr
        return padded

    def computeOutput(self, inferenceResults):
        mask = inferenceResults[0, 0, :self.inputSize[0], :self.inputSize[1]]
        y, x = np.nonzero(mask)
        contours = []
        if len(y):
            top, bottom, left, right = [int(value) for value in (y.min(), y.max(), x.min(), x.max())]
            contours.append([[left, top], [right, top], [right, bottom], [left, bottom]])
        contours.append([[0, 0], [self.inputSize[1] - 1, self.inputSize[0] - 1]])
        return contours
