from modelhublib.imageconverters import ImageConverter
from modelhublib.imageloaders import ImageLoader
from modelhublib.processor import ImageProcessorBase

import nifti


class Nifti1Image(object):
    """As a library's: the array comes when it is asked for."""

    def __init__(self, path):
        self._data, self.affine = nifti.read(path)
        self.shape = self._data.shape

    def get_data(self):
        return self._data


class NiftiImageLoader(ImageLoader):

    def _load(self, input):
        return Nifti1Image(input)

    def _getImageDimensions(self, image):
        return image.shape


class NiftiToNiftiConverter(ImageConverter):

    def _convert(self, image):
        if isinstance(image, Nifti1Image):
            return image
        raise IOError("Image is not a Nifti1Image")


class ImageProcessor(ImageProcessorBase):

    def __init__(self, config):
        self._config = config
        self._imageLoader = NiftiImageLoader(self._config)
        self._imageToNumpyConverter = NiftiToNiftiConverter()

    def _preprocessBeforeConversionToNumpy(self, image):
        return image

    def _preprocessAfterConversionToNumpy(self, npArr):
        return npArr

    def computeOutput(self, inferenceResults):
        return inferenceResults
