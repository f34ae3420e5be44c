# -*- coding: utf-8 -*-
"""Loaders, converters and the processor: what opens, what is refused, and what is said about it."""

import locale
import os
import struct
import subprocess
import sys
import zlib

import numpy
import PIL.Image
import pytest
import SimpleITK

from modelhublib.imageconverters import (ImageConverter, NumpyToNumpyConverter, PilToNumpyConverter,
                                         SitkToNumpyConverter)
from modelhublib.imageloaders import ImageLoader, NumpyImageLoader, PilImageLoader, SitkImageLoader
from modelhublib.model import ModelBase
from modelhublib.processor import ImageProcessorBase

# Pillow keeps a picture open until it has been read, and these are only looked at.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file")


def flat(*limits):
    return {"model": {"io": {"input": {"format": ["image/png"], "dim_limits": list(limits)}}}}


def nested(**sections):
    return {"model": {"io": {"input": dict({"format": ["application/json"]}, **sections)}}}


def chain(config=None):
    config = config or flat()
    return PilImageLoader(config, SitkImageLoader(config, NumpyImageLoader(config)))


@pytest.fixture
def png(tmp_path):
    path = str(tmp_path / "picture.png")
    PIL.Image.new("RGB", (20, 10), (255, 0, 0)).save(path)
    return path


def write_volume(path, shape=(3, 4, 5)):
    array = numpy.arange(numpy.prod(shape), dtype="uint8").reshape(shape)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    return array


def write_series(folder, uid, slices=4):
    """Write a DICOM series whose file names run against the order of the stack."""
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    before = locale.setlocale(locale.LC_ALL)
    for z in range(slices):
        image = SimpleITK.GetImageFromArray(numpy.full((1, 6, 5), z, dtype="int16"))
        for tag, value in (("0008|0060", "CT"), ("0020|000d", "1.2.3"), ("0020|000e", uid),
                           ("0008|0018", "%s.%d" % (uid, z + 1)), ("0020|0013", str(z + 1)),
                           ("0020|0032", "0\\0\\%d" % (2 * z)), ("0020|0037", "1\\0\\0\\0\\1\\0")):
            image.SetMetaData(tag, value)
        writer.SetFileName(os.path.join(folder, "slice-%s-%d.dcm" % (uid, slices - z)))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # the writer leaves C behind, and every later test would read ASCII


def test_each_loader_gets_the_files_of_its_kind(png, tmp_path):
    assert chain().load(png).size == (20, 10)
    for name in ("v.nii", "v.nii.gz", "v.nrrd", "v.mha"):
        array = write_volume(tmp_path / name)
        image = chain().load(str(tmp_path / name))
        assert (SimpleITK.GetArrayFromImage(image) == array).all(), name
    numpy.save(str(tmp_path / "a.npy"), numpy.ones((2, 2)))
    assert chain().load(str(tmp_path / "a.npy")).shape == (2, 2)


def test_names_that_are_hard_to_open(tmp_path):
    for name in (u"with space.nii", u"new\nline.nii", u"-dash.nii", u"\u00e9\u4e2d.nii", u"'\"$(id);.nii"):
        array = write_volume(tmp_path / "plain.nii")
        target = os.path.join(str(tmp_path).encode(), name.encode("utf-8"))
        os.rename(str(tmp_path / "plain.nii").encode(), target)
        native = target if sys.version_info[0] == 2 else os.fsdecode(target)
        for path in (native, target.decode("utf-8")):
            assert (SimpleITK.GetArrayFromImage(chain().load(path)) == array).all(), name


def test_simpleitk_never_sees_a_name_it_would_abort_on(tmp_path):
    write_volume(tmp_path / "plain.nii")
    target = os.path.join(str(tmp_path).encode(), b"\xff\xfe.nii")
    os.rename(str(tmp_path / "plain.nii").encode(), target)
    native = target if sys.version_info[0] == 2 else os.fsdecode(target)
    with pytest.raises(IOError) as caught:
        chain().load(native)
    assert "not UTF-8" in str(caught.value)


def test_the_last_error_lists_every_loaders_reason(tmp_path):
    path = tmp_path / "text.png"
    path.write_bytes(b"no picture at all")
    with pytest.raises(IOError) as caught:
        chain().load(str(path))
    lines = str(caught.value).splitlines()
    assert lines[0] == 'Was not able to load the file "%s".' % path
    reasons = [line for line in lines if "ImageLoader: " in line]
    assert [reason.split(":")[0].strip() for reason in reasons] == [
        "PilImageLoader", "SitkImageLoader", "NumpyImageLoader"]
    assert "cannot identify image" in reasons[0]


def test_an_input_that_is_no_file_is_named_by_its_type():
    with pytest.raises(IOError) as caught:
        SitkImageLoader(flat(), NumpyImageLoader(flat())).load(5)
    assert str(caught.value).startswith("Was not able to load input of type")


def test_pickles_are_never_opened(tmp_path):
    marker = tmp_path / "ran"

    class Evil(object):
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    numpy.save(str(tmp_path / "evil.npy"), numpy.array([Evil()], dtype=object))
    with pytest.raises(IOError) as caught:
        chain().load(str(tmp_path / "evil.npy"))
    assert "allow_pickle=False" in str(caught.value) and not marker.exists()


def test_npz_holds_one_array_or_one_named_like_the_input(tmp_path):
    one, two = str(tmp_path / "one.npz"), str(tmp_path / "two.npz")
    numpy.savez(one, anything=numpy.ones((2, 3)))
    numpy.savez(two, t1=numpy.zeros((2, 3)), t2=numpy.ones((2, 3)))
    config = nested(t1={"dim_limits": []}, t2={"dim_limits": [{"min": 2}, {"max": 3}]})
    assert chain().load(one).shape == (2, 3)
    assert chain(config).load(two, id="t2").sum() == 6
    with pytest.raises(IOError) as caught:
        chain().load(two)
    assert "2 arrays (t1, t2)" in str(caught.value)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(str(tmp_path / "x.png"))
    with pytest.raises(IOError) as caught:
        chain().load(str(tmp_path / "x.png"))
    assert "neither a file nor a folder" in str(caught.value)


def test_a_bomb_ends_the_chain(tmp_path, monkeypatch, png):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 90)
    with pytest.raises(PIL.Image.DecompressionBombError):
        chain().load(png)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.warns(PIL.Image.DecompressionBombWarning):
        assert chain().load(png).size == (20, 10)


def test_a_bomb_warning_that_is_an_error_ends_the_chain(monkeypatch, png, recwarn):
    import warnings
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 150)
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
    with pytest.raises(PIL.Image.DecompressionBombWarning):
        chain().load(png)


def test_ctrl_c_is_not_a_reason_to_try_the_next_loader():
    class Interrupted(ImageLoader):
        def _load(self, input):
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        Interrupted(flat(), chain()).load("x")


@pytest.mark.parametrize("cut", [20, 60, -6])
def test_a_truncated_png_does_not_end_the_process(tmp_path, png, engine, cut):
    with open(png, "rb") as stream:
        data = stream.read()
    broken = tmp_path / "broken.png"
    broken.write_bytes(data[:cut])
    code = ("import sys; from modelhublib.imageloaders import SitkImageLoader\n"
            "try: SitkImageLoader({}).load(sys.argv[1])\nexcept IOError as e: print('refused %s' % e)")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([engine] + sys.path))
    text = subprocess.check_output([sys.executable, "-c", code, str(broken)], env=environment)
    assert b"refused" in text and b"truncated PNG" in text


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path, png):
    with open(png, "rb") as stream:
        data = bytearray(stream.read())
    data[data.index(b"IDAT") + 6] ^= 0xff
    broken = tmp_path / "broken.png"
    broken.write_bytes(bytes(data))
    with pytest.raises(IOError) as caught:
        SitkImageLoader(flat()).load(str(broken))
    assert "wrong checksum" in str(caught.value)


def test_simpleitk_still_reads_good_pngs(png):
    assert SitkImageLoader(flat()).load(png).GetSize() == (20, 10)


def test_a_folder_is_a_dicom_series_in_the_order_of_the_stack(tmp_path):
    write_series(str(tmp_path), "1.2.3.4")
    image = chain(flat({"min": 4, "max": 4})).load(str(tmp_path))
    assert image.GetSize() == (5, 6, 4)
    assert [int(plane[0, 0]) for plane in SimpleITK.GetArrayFromImage(image)] == [0, 1, 2, 3]


def test_a_folder_of_several_series_names_them(tmp_path):
    write_series(str(tmp_path), "1.2.3.4")
    write_series(str(tmp_path), "1.2.3.5")
    with pytest.raises(IOError) as caught:
        chain().load(str(tmp_path))
    assert "2 DICOM series" in str(caught.value)
    assert "1.2.3.4" in str(caught.value) and "1.2.3.5" in str(caught.value)


def test_a_folder_without_dicom_says_so(tmp_path):
    with pytest.raises(IOError) as caught:
        chain().load(str(tmp_path))
    assert "no DICOM series" in str(caught.value)


def test_frames_of_a_tiff_are_the_planes_of_a_volume(tmp_path):
    path = str(tmp_path / "stack.tif")
    frames = [PIL.Image.new("L", (6, 5), level) for level in (10, 20, 30)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    array = SimpleITK.GetArrayFromImage(chain().load(path))
    assert array.shape == (3, 5, 6) and [int(plane[0, 0]) for plane in array] == [10, 20, 30]


def test_frames_of_a_dicom_file_are_the_planes_of_a_volume(tmp_path):
    array = write_volume(tmp_path / "frames.dcm")
    image = chain(flat({"min": 3, "max": 3})).load(str(tmp_path / "frames.dcm"))
    assert (SimpleITK.GetArrayFromImage(image) == array).all()


@pytest.mark.parametrize("header", ["with file header", "without"])
def test_dicom_without_preamble(tmp_path, header):
    array = write_volume(tmp_path / "whole.dcm")
    data = (tmp_path / "whole.dcm").read_bytes()[132:]
    if header == "without":
        data = data[12 + struct.unpack("<I", data[8:12])[0]:]
    bare = tmp_path / "bare"
    bare.write_bytes(data)
    assert (SimpleITK.GetArrayFromImage(chain().load(str(bare))) == array).all()


# --- limits ---

@pytest.mark.parametrize("limits, fits", [
    ([], True),
    ([{"min": 3, "max": 3}], True),
    ([{"min": 1, "max": 4}, {"min": 10}, {"max": 20}], True),
    ([{"min": 1}, {}, {"min": 21}], False),
    ([{"max": 2}], False),
    ([{"min": 1}, {"min": 1}, {"min": 1}, {"min": 99}], True),
])
def test_limits_are_for_the_dimensions_that_are_there(png, limits, fits):
    for config, id in ((flat(*limits), None), (nested(single={"dim_limits": limits}), None),
                       (nested(t1={"dim_limits": limits}, t2={}), "t1")):
        if fits:
            assert chain(config).load(png, id=id).size == (20, 10)
            continue
        with pytest.raises(IOError) as caught:
            chain(config).load(png, id=id)
        assert "Image dimensions (z, y, x) do not comply" in str(caught.value)
        assert "[3, 10, 20]" in str(caught.value)


def test_an_image_out_of_its_limits_is_not_given_to_the_next_loader(png):
    class Never(ImageLoader):
        def _load(self, input):
            raise AssertionError("asked")
    with pytest.raises(IOError) as caught:
        PilImageLoader(flat({"min": 9}), Never(flat())).load(png)
    assert "do not comply" in str(caught.value) and "asked" not in str(caught.value)


def test_dimensions_of_any_number(tmp_path):
    numpy.save(str(tmp_path / "line.npy"), numpy.zeros(7))
    numpy.save(str(tmp_path / "five.npy"), numpy.zeros((1, 2, 3, 4, 5)))
    limits = [{"min": 1}, {"min": 2, "max": 2}, {}, {"min": 4}, {"max": 4}]
    assert chain(flat({"min": 7})).load(str(tmp_path / "line.npy")).shape == (7,)
    assert chain(flat(*limits[:4])).load(str(tmp_path / "five.npy")).ndim == 5
    with pytest.raises(IOError):
        chain(flat(*limits)).load(str(tmp_path / "five.npy"))


def test_a_plane_has_a_depth_of_one_for_simpleitk(tmp_path):
    write_volume(tmp_path / "plane.nrrd", (4, 5))
    loader = SitkImageLoader(flat({"min": 1, "max": 1}, {"min": 4, "max": 4}))
    image = loader.load(str(tmp_path / "plane.nrrd"))
    assert SitkToNumpyConverter().convert(image).shape == (1, 1, 4, 5)


def test_an_unknown_input_key_names_the_known_ones(png):
    with pytest.raises(IOError) as caught:
        chain(nested(t1={}, t2={})).load(png, id="t3")
    assert "t3" in str(caught.value) and "t1, t2" in str(caught.value)


# --- converters ---

@pytest.mark.parametrize("mode, channels", [
    ("L", 1), ("RGB", 3), ("RGBA", 4), ("P", 1), ("1", 1), ("I;16", 1)])
def test_pil_images_become_batches_with_channels_first(mode, channels):
    array = PilToNumpyConverter().convert(PIL.Image.new(mode, (20, 10)))
    assert array.shape == (1, channels, 10, 20) and array.dtype == numpy.float32


def test_simpleitk_images_become_batches(tmp_path):
    expected = write_volume(tmp_path / "v.nii")
    array = SitkToNumpyConverter().convert(SimpleITK.ReadImage(str(tmp_path / "v.nii")))
    assert array.shape == (1, 3, 4, 5) and array.dtype == numpy.float32 and (array[0] == expected).all()


def test_an_array_stays_the_same_object():
    array = numpy.zeros((2, 2), dtype="int8")
    assert PilToNumpyConverter(SitkToNumpyConverter(NumpyToNumpyConverter())).convert(array) is array


def test_the_last_converters_error_keeps_the_real_cause(tmp_path, png):
    with open(png, "rb") as stream:
        data = stream.read()
    cut = data.index(b"IDAT") + 8
    body = data[8:cut]
    (tmp_path / "short.png").write_bytes(data[:8] + body)
    converter = PilToNumpyConverter(SitkToNumpyConverter(NumpyToNumpyConverter()))
    with PIL.Image.open(str(tmp_path / "short.png")) as image, pytest.raises(IOError) as caught:
        converter.convert(image)
    text = str(caught.value)
    assert text.startswith("Could not convert image of type") and "to Numpy array." in text
    assert "truncated" in text.lower() and "SitkToNumpyConverter: " in text


# --- what contributions write ---

def test_hooks_may_return_anything(png):
    class Token(object):
        pass
    token = Token()

    class Processor(ImageProcessorBase):
        def _preprocessBeforeConversionToNumpy(self, image):
            return numpy.asarray(image)

        def _preprocessAfterConversionToNumpy(self, npArr):
            token.array = npArr
            return token

    assert Processor(flat()).loadAndPreprocess(png) is token
    assert token.array.shape == (10, 20, 3)


def test_a_converter_may_return_what_it_was_given():
    class Same(ImageConverter):
        def __init__(self):
            pass

        def _convert(self, image):
            return image
    assert Same().convert("volume") == "volume"


def test_a_loader_without_ids_still_serves(png):
    class Old(PilImageLoader):
        def load(self, input):
            return self._load(input)

    class Processor(ImageProcessorBase):
        def __init__(self, config):
            self._imageLoader = Old(config)
            self._imageToNumpyConverter = PilToNumpyConverter()
    assert Processor(flat()).loadAndPreprocess(png).shape == (1, 3, 10, 20)
    assert SitkImageLoader(flat(), Old(flat())).load(png) is not None


def test_successors_can_be_set_later(png):
    loader = NumpyImageLoader(flat())
    loader.setSuccessor(PilImageLoader(flat()))
    assert loader.load(png).size == (20, 10)
    converter = SitkToNumpyConverter()
    converter.setSuccessor(PilToNumpyConverter())
    assert converter.convert(PIL.Image.new("L", (3, 2))).shape == (1, 1, 2, 3)


def test_what_a_contribution_has_to_write():
    for call in (lambda: ModelBase().infer("x"), lambda: ImageProcessorBase(flat()).computeOutput([]),
                 lambda: ImageLoader(flat())._load("x"), lambda: ImageConverter()._convert("x")):
        with pytest.raises(NotImplementedError):
            call()


def test_a_png_chunk_that_claims_gigabytes_is_a_truncated_png(tmp_path):
    path = tmp_path / "claims.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 0xfffffff0, b"IDAT") + zlib.compress(b"x"))
    with pytest.raises(IOError) as caught:
        SitkImageLoader(flat()).load(str(path))
    assert "truncated PNG" in str(caught.value)
