import numpy as np
import SimpleITK
from PIL import Image

from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):

    def _preprocessBeforeConversionToNumpy(self, image):
        if isinstance(image, Image.Image):
            self.inputSize = image.size
            return image.resize((200, 200))
        if isinstance(image, SimpleITK.Image):
            self.inputSize = image.GetSize()[:2]
            print "resampling from", self.inputSize
            spacing = [s * n / 200.0 for s, n in zip(image.GetSpacing(), self.inputSize)]
            resampler = SimpleITK.ResampleImageFilter()
            resampler.SetInterpolator(SimpleITK.sitkNearestNeighbor)
            resampler.SetSize([200, 200] + list(image.GetSize()[2:]))
            resampler.SetOutputSpacing(spacing + list(image.GetSpacing()[2:]))
            resampler.SetOutputOrigin(image.GetOrigin())
            resampler.SetOutputDirection(image.GetDirection())
            return resampler.Execute(image)
        raise IOError("Image Type not supported for preprocessing.")

    def _preprocessAfterConversionToNumpy(self, npArr):
        return npArr.reshape((1, 200, 200, 1))

    def computeOutput(self, inferenceResults):
        width, height = self.inputSize
        rows = np.arange(height) * 200 // height
        columns = np.arange(width) * 200 // width
        mask = inferenceResults[0, :, :, 0][rows][:, columns]
        rgba = np.zeros((height, width, 4), dtype=np.uint8)
        rgba[mask] = (255, 0, 0, 128)
        return rgba
