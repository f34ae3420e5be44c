from modelhublib.processor import ImageProcessorBase


class ImageProcessor(ImageProcessorBase):
    pass
