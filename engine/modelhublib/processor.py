"""The way of one input to the array that a network takes, and back to something readable."""

from .imageconverters import NumpyToNumpyConverter, PilToNumpyConverter, SitkToNumpyConverter
from .imageloaders import NumpyImageLoader, PilImageLoader, SitkImageLoader


class ImageProcessorBase(object):
    """file --load--> image --before hook--> image --convert--> array --after hook--> whatever the net takes.

    The hooks may return anything: what they return is handed on untouched.
    """

    def __init__(self, config):
        """config: the parsed config.json."""
        self._config = config
        self._imageLoader = PilImageLoader(config, SitkImageLoader(config, NumpyImageLoader(config)))
        self._imageToNumpyConverter = PilToNumpyConverter(SitkToNumpyConverter(NumpyToNumpyConverter()))

    def loadAndPreprocess(self, input, id=None):
        """Return the preprocessed input; id is its key where the model has several inputs."""
        # Contributions may bring loaders of an age that knew no id: it is passed only where there is one.
        image = self._load(input) if id is None else self._load(input, id)
        image = self._preprocessBeforeConversionToNumpy(image)
        array = self._convertToNumpy(image)
        return self._preprocessAfterConversionToNumpy(array)

    def computeOutput(self, inferenceResults):
        """Turn the net's result into what infer returns."""
        raise NotImplementedError("A processor has to say how it computes the output")

    def _load(self, input, id=None):
        if id is None:
            return self._imageLoader.load(input)
        return self._imageLoader.load(input, id=id)

    def _preprocessBeforeConversionToNumpy(self, image):
        return image

    def _convertToNumpy(self, image):
        return self._imageToNumpyConverter.convert(image)

    def _preprocessAfterConversionToNumpy(self, npArr):
        return npArr
