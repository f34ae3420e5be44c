"""Inputs that are opened before their turn: the model gets what it would have opened itself, or opens it itself."""

import copy
import os
import pickle
import threading

import numpy
import PIL.Image
import pytest
import SimpleITK

from modelhublib import ahead, lazyimage
from modelhublib.imageloaders import NumpyImageLoader, PilImageLoader, SitkImageLoader

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file")


def noise(*shape):
    return numpy.random.RandomState(1).randint(0, 256, shape).astype("uint8")


@pytest.fixture
def jpeg(tmp_path):
    path = str(tmp_path / "photograph.jpg")
    PIL.Image.fromarray(noise(150, 200, 3)).save(path, quality=95)
    return path


@pytest.fixture
def palette(tmp_path):
    path = str(tmp_path / "palette.png")
    PIL.Image.fromarray(noise(200, 200)).convert("P", palette=PIL.Image.ADAPTIVE).save(path)
    return path


@pytest.fixture
def inputs(monkeypatch):
    """Nothing learned and nothing prepared yet; its threads end with the test."""
    fresh = ahead.Inputs(1)
    monkeypatch.setattr("modelhublib.imageloaders.INPUTS", fresh)
    monkeypatch.setattr(ahead, "INPUTS", fresh)
    yield fresh
    fresh.end()


def pixels(image):
    return numpy.asarray(image).tolist()


def shrunk(image):
    image.thumbnail((40, 40))  # asks a JPEG for less of itself
    return pixels(image)


def drafted(image):
    image.draft("L", (50, 50))
    return pixels(image), image.mode


def verified(image):
    image.verify()
    return image.size


USES = {
    "load": lambda image: (image.load() and None, pixels(image), image.info, image.format, image.mode),
    "resize": lambda image: pixels(image.resize((10, 10))),
    "convert": lambda image: pixels(image.convert("RGB")),
    "crop": lambda image: pixels(image.crop((3, 3, 30, 30))),
    "copies": lambda image: (pixels(copy.copy(image)), pixels(image.copy()), pixels(copy.copy(image))),
    "pickle": lambda image: pixels(pickle.loads(pickle.dumps(image, 2))),
    "thumbnail": shrunk,
    "draft": drafted,
    "verify": verified,
    "band": lambda image: pixels(image.split()[0]),
}


@pytest.mark.parametrize("use", sorted(USES))
@pytest.mark.parametrize("kind", ["jpeg", "palette"])
def test_a_decoded_picture_is_like_one_just_opened(kind, use, request):
    path = request.getfixturevalue(kind)
    prepared, size = lazyimage.prepare(path)
    assert isinstance(prepared, type(PIL.Image.open(path))) and size >= 150 * 200
    assert USES[use](prepared) == USES[use](PIL.Image.open(path))


def test_it_is_an_ordinary_picture_once_it_was_read(jpeg):
    prepared, _ = lazyimage.prepare(jpeg)
    plain = PIL.Image.open(jpeg)
    assert type(prepared) is not type(plain) and prepared.fp is not None
    prepared.load()
    plain.load()
    assert type(prepared) is type(plain)
    assert sorted(vars(prepared)) == sorted(vars(plain)) and prepared.fp is plain.fp is None


def test_frames_are_left_to_the_model(tmp_path):
    path = str(tmp_path / "frames.gif")
    frames = [PIL.Image.fromarray(noise(40, 40)) for _ in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert lazyimage.prepare(path) is None


def test_what_is_expected_is_opened_by_the_loader_that_could_before(inputs, tmp_path, jpeg):
    paths = [str(tmp_path / ("%d.JPG" % number)) for number in range(3)]
    for path in paths:
        os.link(jpeg, path)
    loader = PilImageLoader({}, SitkImageLoader({}))
    inputs.expect([jpeg], paths)
    assert not inputs._wanted and not inputs._threads  # nobody knows yet what opens it
    first = loader.load(jpeg)
    inputs.expect([jpeg], paths)
    wait_for(inputs, 3)
    images = [loader.load(path) for path in paths]
    assert [type(image) is type(first) for image in images] == [False] * 3  # prepared, and not read yet
    assert [pixels(image) for image in images] == [pixels(first)] * 3
    assert inputs.take(PilImageLoader, paths[0]) is None  # handed out once


def test_volumes(inputs, tmp_path):
    paths = [str(tmp_path / name) for name in ("a.nii", "b.nii", u"\u00e9 c.nii")]
    for number, path in enumerate(paths):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise(30, 40, 50) // (number + 1)), path)
    loader = PilImageLoader({}, SitkImageLoader({}, NumpyImageLoader({})))
    expected = [SimpleITK.GetArrayFromImage(loader.load(path)).tolist() for path in paths]
    inputs.expect(paths[:1], paths[1:])
    wait_for(inputs, 2)
    assert [SimpleITK.GetArrayFromImage(loader.load(path)).tolist() for path in paths] == expected
    assert not inputs._ready


def wait_for(inputs, count):
    with inputs._changed:
        while len(inputs._ready) < count:
            inputs._changed.wait()


class Slow(object):
    """A loader whose files are opened when the test says so; one that is named "bad" is not."""

    gate = threading.Event()
    opened = []

    @classmethod
    def _prepare(cls, path):
        cls.gate.wait()
        cls.opened.append(path)
        if "bad" in path:
            raise IOError(path)
        return path, 400 * 1024 * 1024


@pytest.fixture
def slow(inputs, tmp_path):
    """Return a function that makes large files which the slow loader has learned to open."""
    Slow.gate.clear()
    del Slow.opened[:]

    def make(*names):
        paths = [str(tmp_path / name) for name in names]
        for path in paths:
            with open(path, "wb") as stream:
                stream.write(b"x" * 32 * 1024)
            inputs.learn(Slow, path)
        return paths
    yield make
    Slow.gate.set()


def test_what_is_being_opened_is_waited_for(inputs, slow):
    path, = slow("a.slow")
    inputs.expect([], [path])
    while path not in inputs._opening:
        pass
    threading.Timer(0.05, Slow.gate.set).start()
    assert inputs.take(Slow, path) == path


def test_what_nobody_has_begun_is_not_waited_for(inputs, slow):
    first, second = slow("a.slow", "b.slow")
    inputs.expect([], [first, second])
    while first not in inputs._opening:
        pass
    assert inputs.take(Slow, second) is None  # the gate is closed: waiting would be for ever
    Slow.gate.set()
    assert inputs.take(Slow, first) == first
    assert Slow.opened == [first]


def test_what_cannot_be_opened_is_left_to_the_model(inputs, slow):
    bad, good = slow("bad.slow", "good.slow")
    Slow.gate.set()
    inputs.expect([], [bad, good])
    wait_for(inputs, 1)
    assert inputs.take(Slow, bad) is None and inputs.take(Slow, good) == good


def test_not_more_is_held_than_memory_is_for(inputs, slow):
    paths = slow(*("%d.slow" % number for number in range(5)))
    Slow.gate.set()
    inputs.expect([], paths)
    wait_for(inputs, 2)
    assert inputs._held() > ahead._MOST_HELD and list(inputs._wanted) == paths[2:]
    assert inputs.take(Slow, paths[0]) == paths[0]
    wait_for(inputs, 2)
    assert sorted(inputs._ready) == paths[1:3]


def test_small_files_and_folders_are_not_worth_it(inputs, slow, tmp_path):
    small = str(tmp_path / "small.slow")
    with open(small, "wb") as stream:
        stream.write(b"x" * 100)
    slow("learned.slow")
    inputs.expect([], [small, str(tmp_path), str(tmp_path / "missing.slow")])
    assert not inputs._wanted


def test_a_model_that_opens_files_its_own_way_is_not_helped_for_long(inputs, slow):
    paths = slow(*("%d.slow" % number for number in range(9)))
    Slow.gate.set()
    for path in paths:
        inputs.expect([], [path])
        if path in inputs._wanted or path in inputs._opening:
            wait_for(inputs, 1)
    assert Slow.opened == paths[:ahead._MOST_IN_VAIN + 1]
    inputs.expect([], [])
    assert not inputs._ready


def test_a_child_opens_its_own(inputs, slow):
    path, = slow("a.slow")
    inputs.expect([], [path])
    while path not in inputs._opening:
        pass
    child = os.fork()
    if not child:
        os._exit(0 if inputs.take(Slow, path) is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    Slow.gate.set()


@pytest.mark.parametrize("given, threads", [("1", 0), ("2", 1), ("3", 2), ("64", 4), ("", 1), ("4,2", 1), ("0", 1)])
def test_only_idle_cores_open_ahead(given, threads, monkeypatch, slow):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert ahead._idle_cores() == threads
    inputs, paths = ahead.Inputs(threads), slow("a.slow", "b.slow")
    inputs.learn(Slow, paths[0])
    inputs.expect([], paths)
    assert len(inputs._threads) == threads
    Slow.gate.set()
    inputs.end()
