"""Stand-ins for the published models: their configuration and their ways, with networks that a test can compute too.

Each has the exact config block of its registry entry, in the form of its time, and code of the same make as the
model's (tests/contributions/published): the hooks it writes, what passes between them, what it returns.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import nibabel
import numpy as np
from grounds import REPO
from PIL import Image

Array = np.ndarray[Any, Any]

CODE = REPO / "tests/contributions/published"
START = REPO / "tests/contributions/legacy27/contrib_src"  # run.py and modelapi.py, which all models share
KEYS = ("t1", "t1c", "t2", "flair")
CASES = ("first", "second")
WEIGHTS = np.random.default_rng(20).uniform(0.1, 1, (3, 1000)).astype(np.float32)
# what a published configuration says otherwise than the registry, where it is no word of ModelHub's
NAMES = {"yolo-v3": "YOLOv3"}
TYPES = {"unet-2d": "ndarray"}
WITHOUT_OVERALL_FORMAT = ("unet-2d",)


@dataclass(frozen=True)
class Way:
    """How a model is made. code: its folder; write: makes the input of a case; compute: its outputs for that input."""

    code: str
    write: Callable[[Path, int], Any]
    compute: Callable[[Any], list[Any]]


@dataclass(frozen=True)
class Published:
    """A stand-in on disk, as `mh-hpc pull` would leave it, and the inputs of its cases. sample: within contrib_src."""

    entry: Mapping[str, Any]
    folder: Path
    inputs: Path
    sample: str
    given: Mapping[str, Any]

    @property
    def way(self) -> Way:
        return WAYS[self.entry["name"]]

    def expected(self, case: str) -> list[Any]:
        """The value of each output, an array where the model returns one."""
        return self.way.compute(self.given[case])


def entries() -> dict[str, dict[str, Any]]:
    """The registry's entries of models whose code lies elsewhere, by name."""
    read = (json.loads(path.read_bytes()) for path in sorted((REPO / "registry/models").glob("*.json")))
    return {e["name"]: e for e in read if e["versions"][-1]["source"]["repository"]}


def make(entry: Mapping[str, Any], folder: Path, image: str) -> Published:
    """Write a stand-in and its inputs into the new folder. image: the one that it is to run in."""
    name = entry["name"]
    source = folder / "model/contrib_src"
    shutil.copytree(CODE / WAYS[name].code, source)
    for program in ("run.py", "modelapi.py"):
        shutil.copy(START / program, source)
    _write_model(entry, source)
    (folder / "model/init").mkdir()
    _write_json(folder / "model/init/init.json", {"docker_id": image, "external_contrib_files": []})
    _write_json(folder / "model/entry.json", entry)
    inputs, samples = folder / "inputs", source / "sample_data"
    for each in (inputs, samples):
        each.mkdir()
    given = {case: WAYS[name].write(inputs / case, number) for number, case in enumerate(CASES)}
    shutil.copytree(inputs, samples, dirs_exist_ok=True)
    several = len(entry["io"]["inputs"]) > 1
    sample = _write_sample(entry, samples) if several else next(samples.glob(f"{CASES[0]}.*")).name
    return Published(entry, folder / "model", inputs, f"sample_data/{sample}", given)


def _write_model(entry: Mapping[str, Any], source: Path) -> None:
    (source / "model").mkdir()
    _write_json(source / "model/config.json", configuration(entry))
    _write_json(source / "model/labels.json", {str(i): label(i) for i in range(1000)})
    np.save(source / "model/weights.npy", WEIGHTS)
    for fold in range(5):
        (source / f"model/params/{fold}").mkdir(parents=True)
        np.save(source / f"model/params/{fold}/model_best.npy", WEIGHTS[:, :1])
    (source / "license").mkdir()
    for text in ("model", "sample_data"):
        (source / "license" / text).write_text("none")


def _write_sample(entry: Mapping[str, Any], samples: Path) -> str:
    """The JSON of a case with several inputs, as the models bring it: paths from their own folder."""
    parts = {
        each["key"]: {"format": each["mime"], "fileurl": f"sample_data/{CASES[0]}/{each['key']}.nii.gz"}
        for each in entry["io"]["inputs"]
    }
    _write_json(samples / "sample.json", {"format": ["application/json"], **parts})
    return "sample.json"


def label(index: int) -> str:
    return f"n{index:04d} one, another"


def configuration(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of a published model: flat as it was until 2019, or with a block for each input."""
    name, io = entry["name"], entry["io"]
    blocks = {each["key"]: {"format": each["mime"], "dim_limits": _limits(each)} for each in io["inputs"]}
    overall = ["application/json"] if len(blocks) > 1 else io["inputs"][0]["mime"]
    given = {} if name in WITHOUT_OVERALL_FORMAT else {"format": overall}
    inputs = next(iter(blocks.values())) if entry["config_form"] == "flat" else {**given, **blocks}
    outputs = [_without_null(name=o["name"], type=TYPES.get(name, o["type"]), description=o["description"])
               for o in io["outputs"]]
    meta = {key: entry[key] for key in ("task", "task_extended", "application_area", "data_type")}
    model = dict.fromkeys(("description", "provenance", "architecture", "learning_type", "format"), "")
    return {
        "id": entry["id"],
        "meta": {"name": NAMES.get(name, name), **meta},
        "model": {**model, "io": {"input": inputs, "output": outputs}},
        "modelhub": {},
    }


def _limits(given: Mapping[str, Any]) -> list[dict[str, int]]:
    return [_without_null(**limit) for limit in given["dim_limits"]]


def _without_null(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


# -- inputs -----------------------------------------------------------------------------------------------------


def picture(width: int, height: int) -> Callable[[Path, int], Array]:
    """A writer of RGB pictures; it returns (height, width, 3) uint8."""

    def write(path: Path, number: int) -> Array:
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8) // (number + 1)
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        return pixels

    return write


def grey(width: int, height: int) -> Callable[[Path, int], Array]:
    """The same without colours, of which versions of Pillow make grey in ways of their own."""

    def write(path: Path, number: int) -> Array:
        pixels = np.repeat(picture(width, height)(path, number)[:, :, :1], 3, axis=2)
        Image.fromarray(pixels).save(path.with_suffix(".png"))
        return pixels

    return write


def slice_(width: int, height: int) -> Callable[[Path, int], Array]:
    """A writer of DICOM slices with a bright rectangle; it returns (height, width) uint16."""

    def write(path: Path, number: int) -> Array:
        pixels = np.zeros((height, width), np.uint16)
        pixels[20 + number : 60, 30 : 90 + number] = 900
        size = {"Rows": height, "Columns": width, "ImagePositionPatient": [0.0, 0.0, 0.0]}
        hostile.dicom(f"{path}.dcm", series=f"1.2.{number + 1}", PixelData=pixels.tobytes(), **size)
        return pixels

    return write


def array(path: Path, number: int) -> Array:
    voxels = np.random.default_rng(number).integers(0, 200, (150, 150, 150), dtype=np.uint8)
    np.save(path.with_suffix(".npy"), voxels)
    return voxels


def nrrd(path: Path, number: int) -> Array:
    """(z, y, x) uint8."""
    voxels = np.full((100, 256, 257), 51 * (number + 1), np.uint8)
    head = "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 257 256 100\n"
    head += "space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: gzip\nspace origin: (0,0,0)\n\n"
    path.with_suffix(".nrrd").write_bytes(head.encode() + gzip.compress(voxels.tobytes(), 1))
    return voxels


def volumes(path: Path, number: int) -> Array:
    """Four volumes in the folder `path`; which is the brightest differs from place to place. (key, x, y, z) uint8."""
    voxels = np.zeros((4, 155, 156, 157), np.uint8)
    for key in range(4):
        voxels[key, 10 * key : 60, 5 : 80 + number, 20 * key : 100] = 50 * (key + 1)
    path.mkdir()
    for key, name in enumerate(KEYS):
        nibabel.Nifti1Image(voxels[key], np.diag([1.0, 1.0, 2.0, 1.0])).to_filename(path / f"{name}.nii.gz")
    return voxels


# -- what the models make of them -------------------------------------------------------------------------------


def classes(pixels: Array) -> list[Any]:
    scores = pixels.mean(axis=(0, 1), dtype=np.float64) @ WEIGHTS
    return [label_list([label(i) for i in range(1000)], scores / scores.sum())]


def emotions(pixels: Array) -> list[Any]:
    grey = np.asarray(Image.fromarray(pixels).convert("L")).mean(dtype=np.float64)
    powers = np.exp(-np.abs(np.arange(8) - grey / 32))
    return [label_list([label(i) for i in range(8)], powers / powers.sum())]


def ventricle(pixels: Array) -> list[Any]:
    rgba = np.zeros((*pixels.shape, 4), np.uint8)
    rgba[pixels > 500] = (255, 0, 0, 128)
    return [rgba]


def contours(pixels: Array) -> list[Any]:
    y, x = np.nonzero(pixels > 500)
    left, right, top, bottom = (int(v) for v in (x.min(), x.max(), y.min(), y.max()))
    height, width = pixels.shape
    return [[[[left, top], [right, top], [right, bottom], [left, bottom]], [[0, 0], [width - 1, height - 1]]]]


def prognosis(voxels: Array) -> list[Any]:
    survival = (voxels[50:100, 50:100, 50:100].mean() + 1024) / 4096
    features = [[survival * i for i in range(256)]]
    return [label_list(["Death", "Survival"], [1 - survival, survival]), features]


def pose(pixels: Array) -> list[Any]:
    return [(pixels.mean(axis=(0, 1)) @ WEIGHTS[:, :7]).astype(np.float32)]


def embedding(pixels: Array) -> list[Any]:
    return [[pixels.mean() * i for i in range(512)]]


def colours(pixels: Array) -> list[Any]:
    return [np.where(pixels > pixels.mean(axis=(0, 1)), 255, 0).astype(np.uint8)]


def boxes(pixels: Array) -> list[Any]:
    return [np.full((1, 13, 13, 255), pixels.mean() / 255, np.float32)]


def tumour(dtype: type, axes: tuple[int, int, int]) -> Callable[[Array], list[Any]]:
    def compute(voxels: Array) -> list[Any]:
        return [voxels.argmax(axis=0).astype(dtype).transpose(axes)]

    return compute


def risk(pixels: Array) -> list[Any]:
    grey = np.asarray(Image.fromarray(pixels).convert("L")).mean() / 255
    return [label_list(["low risk", "high risk"], [1 - grey, grey])]


def cells(pixels: Array) -> list[Any]:
    return [np.asarray(Image.fromarray(pixels).convert("L")).astype(np.float32) / 255]


def artifact(voxels: Array) -> list[Any]:
    mean = voxels.mean() / 255
    return [label_list(["no artifact", "artifact"], [1 - mean, mean])]


def label_list(labels: list[str], probabilities: Any) -> list[dict[str, Any]]:
    return [{"label": name, "probability": float(p)} for name, p in zip(labels, probabilities, strict=True)]


SMALL = picture(32, 32)
WAYS = {
    **dict.fromkeys(("squeezenet", "mobilenet", "resnet-50", "vgg-19"), Way("mxnet", SMALL, classes)),
    **dict.fromkeys(("googlenet", "alexnet"), Way("caffe", SMALL, classes)),
    **dict.fromkeys(("inception-v3", "xception"), Way("keras", SMALL, classes)),
    "densenet": Way("densenet", SMALL, classes),
    "emotion-fer-plus": Way("cntk", grey(64, 64), emotions),
    "cardiac-fcn": Way("cardiac-fcn", slice_(200, 200), ventricle),
    "cascaded-fcn-liver": Way("cascaded-fcn-liver", slice_(120, 100), contours),
    "deep-prognosis": Way("deep-prognosis", array, prognosis),
    "sfm-learner-pose": Way("sfm-learner-pose", picture(416, 128), pose),
    "arc-face": Way("arc-face", picture(40, 48), embedding),
    "duc-semantic": Way("duc-semantic", picture(50, 40), colours),
    "yolo-v3": Way("yolo-v3", picture(200, 200), boxes),
    "lfb-rwth-brats": Way("lfb-rwth-brats", volumes, tumour(np.float32, (0, 1, 2))),
    "deepscan-brats": Way("deepscan-brats", volumes, tumour(np.int64, (0, 1, 2))),
    "mic-dkfz-brats": Way("mic-dkfz-brats", volumes, tumour(np.uint8, (2, 1, 0))),
    "cxr-risk": Way("cxr-risk", grey(64, 48), risk),
    "unet-2d": Way("unet-2d", grey(256, 256), cells),
    "DentalArtifactModel": Way("DentalArtifactModel", nrrd, artifact),
}
