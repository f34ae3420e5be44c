"""Loaders: a chain in which each one tries to open an input and hands on to the next."""

import os
import stat
import struct
import zlib

from . import dicom, ioconfig, lazyimage
from .ahead import INPUTS
from .errors import explain
from .paths import itk_path, is_path, native_path

_MOST_BYTES = 8  # of a number in a voxel
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class ImageLoader(object):
    """One link of the chain. Write `_load` and `_getImageDimensions` for a format of your own."""

    # Contributions may write an __init__ that doesn't call this one.
    _config = None
    _successor = None

    def __init__(self, config, successor=None):
        """config: the parsed config.json; successor: the loader to ask when this one fails."""
        self._config = config
        self._successor = successor

    def setSuccessor(self, successor):
        """Set the loader to ask when this one fails."""
        self._successor = successor

    def load(self, input, id=None):
        """Return the image of the first loader that can open input; id is the input's key, if it has one.

        Raises IOError: with the reason of every loader when none can, or when the image that was
        loaded does not have the size that the configuration asks for.
        """
        _refuse_special_file(input)
        try:
            image = self._load_as(input, id)
        except Exception as error:
            if _ends_the_chain(error):
                raise
            reason = explain(self, error)
        else:
            self._checkConfigCompliance(image, id)
            return image
        # Out of the except block, so that one loader's traceback doesn't drag along all the others'.
        return self._load_by_successor(input, id, reason)

    def _load(self, input):
        raise NotImplementedError("A loader has to say how it loads")

    def _load_as(self, input, id):
        """Load input for the key id, for loaders to whom the key means something."""
        return self._load(input)

    def _load_by_successor(self, input, id, reason):
        later = []
        if self._successor is not None:
            try:
                return self._successor.load(input) if id is None else self._successor.load(input, id=id)
            except IOError as error:
                later = getattr(error, "reasons", None)
                if later is None:  # not "nobody can load this" but a verdict on what was loaded
                    raise
        raise _nobody_can_load(input, [reason] + later)

    def _checkConfigCompliance(self, image, id=None):
        """Raise IOError where a dimension is out of its limits; one without limits passes."""
        io = ((self._config or {}).get("model") or {}).get("io")
        limits = ioconfig.dim_limits(io, id)
        if not limits:
            return
        dims = list(self._getImageDimensions(image))
        for dim, limit in zip(dims, limits):
            low, high = limit.get("min"), limit.get("max")
            if (low is not None and dim < low) or (high is not None and dim > high):
                raise IOError("Image dimensions (z, y, x) do not comply with input requirements: "
                              "the image has %s, allowed is %s" % (dims, _show_limits(limits)))

    def _getImageDimensions(self, image):
        """Return the dimensions of image as a list, in the order of the configuration's dim_limits."""
        raise NotImplementedError("A loader has to say how large its images are")


class PilImageLoader(ImageLoader):
    """Photographs and the like, by Pillow. Dimensions are (bands, height, width)."""

    def _load(self, input):
        import PIL.Image
        image = INPUTS.take(PilImageLoader, input)
        image = PIL.Image.open(input) if image is None else image
        if image.format == "TIFF" and _has_equal_frames(image):
            # As a Pillow image only the first of them would ever be looked at.
            count = image.n_frames
            image.close()
            raise IOError("has %d frames, which make a volume" % count)
        INPUTS.learn(PilImageLoader, input)
        return image

    @staticmethod
    def _prepare(path):
        return lazyimage.prepare(path)

    def _checkConfigCompliance(self, image, id=None):
        try:
            ImageLoader._checkConfigCompliance(self, image, id)
        except IOError:
            image.close()  # its file stays open until its pixels are read, which now they never are
            raise

    def _getImageDimensions(self, image):
        return [len(image.getbands()), image.size[1], image.size[0]]


class SitkImageLoader(ImageLoader):
    """Medical images (DICOM, NIfTI, NRRD, MHA ...) by SimpleITK; a folder is read as one DICOM series.

    Dimensions are (z, y, x), slowest first; z is 1 for a plane.
    """

    def _load(self, input):
        import SimpleITK
        if not is_path(input):
            raise IOError("SimpleITK loads files, not %s" % type(input).__name__)
        if os.path.isdir(native_path(input)):
            return SimpleITK.ReadImage(_series_files(itk_path(input)))
        image = INPUTS.take(SitkImageLoader, input)
        image = _read_file(native_path(input)) if image is None else image
        INPUTS.learn(SitkImageLoader, input)
        return image

    @staticmethod
    def _prepare(path):
        image = _read_file(path)
        count = image.GetNumberOfComponentsPerPixel()
        for size in image.GetSize():
            count *= size
        return image, _MOST_BYTES * count

    def _getImageDimensions(self, image):
        size = list(image.GetSize())
        if len(size) < 3:
            size.append(1)
        return size[::-1]


class NumpyImageLoader(ImageLoader):
    """Arrays from .npy and .npz files, never pickled ones. Dimensions are the array's shape.

    An .npz file has to hold one array, or one that is named like the input's key.
    """

    def _load(self, input):
        import numpy
        # Pickles run code: a data file must never be able to.
        return numpy.load(input, allow_pickle=False)

    def _load_as(self, input, id):
        loaded = self._load(input)
        return loaded if not hasattr(loaded, "files") else _pick_array(loaded, id)

    def _getImageDimensions(self, image):
        return list(image.shape)


def _refuse_special_file(input):
    """Raise IOError for a pipe, socket or device: to open one can wait for ever."""
    if not is_path(input):
        return
    path = native_path(input)
    if os.path.exists(path):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise IOError('"%s" is neither a file nor a folder' % path)


def _ends_the_chain(error):
    """True for errors after which no other loader may try: a decompression bomb, or no memory left."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return isinstance(error, MemoryError) or any(name.startswith("DecompressionBomb") for name in names)


def _nobody_can_load(input, reasons):
    """Return the IOError that ends the chain; its attribute `reasons` has a line for each loader."""
    what = 'the file "%s".' % native_path(input) if is_path(input) else 'input of type "%s".' % type(input)
    error = IOError("Was not able to load %s\n%s" % (what, "\n".join("  " + reason for reason in reasons)))
    error.reasons = reasons
    return error


def _show_limits(limits):
    return "[%s]" % ", ".join("%s..%s" % (limit.get("min", ""), limit.get("max", "")) for limit in limits)


def _has_equal_frames(image):
    count = getattr(image, "n_frames", 1)
    if count < 2:
        return False
    sizes = set()
    for index in range(count):
        image.seek(index)
        sizes.add(image.size)
    image.seek(0)
    return len(sizes) == 1


def _read_file(path):
    import SimpleITK
    named = itk_path(path)
    _check_png(path)
    try:
        return SimpleITK.ReadImage(named)
    except RuntimeError:
        if not dicom.is_bare(path):
            raise
    return _read_bare_dicom(named)


def _series_files(folder):
    """Return the files of the only DICOM series in folder, sorted along the stack; IOError if it isn't."""
    import SimpleITK
    ids = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(folder)
    if len(ids) != 1:
        found = "no DICOM series" if not ids else "%d DICOM series: %s" % (len(ids), ", ".join(sorted(ids)))
        raise IOError("the folder holds %s; it has to hold one" % found)
    return SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder, ids[0])


def _read_bare_dicom(path):
    """Return the image of a DICOM file without preamble, which newer ITKs read only when told to."""
    import SimpleITK
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(path)
    return reader.Execute()


def _check_png(path):
    """Raise IOError for a damaged PNG: the libpng in old SimpleITK ends the whole process on one."""
    with open(path, "rb") as stream:
        if stream.read(8) != _PNG_SIGNATURE:
            return
        kind = b""
        while kind != b"IEND":
            head = stream.read(8)
            if len(head) < 8:
                raise IOError("truncated PNG")
            length, kind = struct.unpack(">I4s", head)
            body = stream.read(length)
            checksum = stream.read(4)
            if len(body) < length or len(checksum) < 4:
                raise IOError("truncated PNG")
            if struct.pack(">I", zlib.crc32(kind + body) & 0xffffffff) != checksum:
                raise IOError("damaged PNG: wrong checksum")


def _pick_array(arrays, id):
    """Return the array for key id of an open .npz file, and close it."""
    try:
        names = sorted(arrays.files)
        if id in names:
            return arrays[id]
        if len(names) == 1:
            return arrays[names[0]]
        raise IOError("the file holds %d arrays (%s); it has to hold one, or one named like the input%s"
                      % (len(names), ", ".join(names), "" if id is None else ' "%s"' % id))
    finally:
        arrays.close()
