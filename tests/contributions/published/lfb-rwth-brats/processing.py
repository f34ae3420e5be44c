from modelhublib.imageconverters import NumpyToNumpyConverter
from modelhublib.imageloaders import ImageLoader
from modelhublib.processor import ImageProcessorBase

import nifti


class NiftiLoader(ImageLoader):

    def _load(self, input):
        return nifti.read(input)[0]

    def _getImageDimensions(self, image):
        return image.shape


class ImageProcessor(ImageProcessorBase):

    def __init__(self, config):
        self._config = config
        self._imageLoader = NiftiLoader(self._config)
        self._imageToNumpyConverter = NumpyToNumpyConverter()

    def _preprocessBeforeConversionToNumpy(self, image):
        return image

    def _preprocessAfterConversionToNumpy(self, npArr):
        return npArr

    def computeOutput(self, inferenceResults):
        return inferenceResults

    def returnAffine(self, path):
        return nifti.read(path)[1]
