"""A new contribution in ModelHub's template, with a stand-in for the network, so that it runs as it is."""

from __future__ import annotations

import ast
import datetime
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelhub_hpc import resources
from modelhub_hpc.contributing import phantoms
from modelhub_hpc.errors import UsageError, shown
from modelhub_hpc.runfolder import storage

# those of recipes/ that have no published counterpart
_NEW_IMAGES = {"onnxruntime": "modelhub-hpc/onnxruntime:1", "pytorch": "modelhub-hpc/pytorch:1"}
# what registries call frameworks that are not called like their images
_BACKENDS = {"onnxruntime": ("onnx",), "keras": ("tensorflow", "keras"), "fastai": ("pytorch",)}
_NAME = re.compile("[a-z0-9]+(?:-[a-z0-9]+)*")
_LONGEST_NAME = 64
_KEY = re.compile("[A-Za-z][A-Za-z0-9_-]*")
_OUTPUT_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]*")
_NO_KEYS = re.compile("format|description|^dim_limits$")  # they mean something else beside a config.json's inputs
PLACEHOLDER = re.compile("@([a-z]+)@")
_LIMITS = [{"min": 1}, {"min": 8}, {"min": 8}]  # channels or z, then y, x
_LABELS = {"0": "dark", "1": "bright"}
_TASKS = {
    "label_list": "Classification",
    "contour": "Segmentation",
    "vector": "Regression",
    "mask_image": "Segmentation",
    "heatmap": "Detection",
    "image": "Image translation",
    "custom": "Analysis",
}
OUTPUT_TYPES = tuple(_TASKS)
STAND_IN = "A stand-in that says how bright an image is."  # the description of all new models
LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0")


@dataclass(frozen=True)
class Wanted:
    """What a new contribution is to be. inputs: MIME types by key, "single" for one; outputs: type by name."""

    name: str
    image: str
    backend: Sequence[str]
    inputs: Mapping[str, Sequence[str]]
    outputs: Mapping[str, str]
    licence: str
    author: str

    @property
    def single(self) -> bool:
        return list(self.inputs) == ["single"]


def images() -> dict[str, str]:
    """The image for each framework, and for each environment of recipes/: its newest where there are several."""
    listed = json.loads((resources.folder("recipes") / "environments.json").read_bytes())
    exact = {each["recipe"]: each["image"] for each in listed}
    newest = {recipe.rpartition("-")[0]: image for recipe, image in exact.items()}
    return {**newest, **exact, **_NEW_IMAGES}


def backend(framework: str) -> tuple[str, ...]:
    """What a registry's entry says of a framework, or of the environment of a recipe.

    >>> backend("keras-2.3.1"), backend("pytorch-gpu")
    (('tensorflow', 'keras'), ('pytorch',))
    """
    family = framework.partition("-")[0]
    return _BACKENDS.get(family, (family,))


def checked_name(name: str) -> str:
    """The name of a model; UsageError for one that cannot be."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{shown(name)!r} cannot be the name of a model: lower-case letters, digits and single hyphens can, "
            f"up to {_LONGEST_NAME}. For example: lung-nodules"
        )
    return name


def parse_inputs(text: str) -> dict[str, tuple[str, ...]]:
    """MIME types by key, of MIME[,MIME...] for the only input, or KEY=MIME[,MIME...] for each of several.

    >>> parse_inputs("t1=image/png flair=image/png,image/jpeg")
    {'t1': ('image/png',), 'flair': ('image/png', 'image/jpeg')}

    Raises UsageError.
    """
    words = text.split() or [""]
    pairs = [word.rpartition("=")[::2] for word in words]
    keys = [key or "single" for key, _ in pairs]
    for key, word in zip(keys, words):
        if not _KEY.fullmatch(key) or _NO_KEYS.search(key):
            raise UsageError(f"{shown(word)!r}: {shown(key)!r} cannot name an input. For example: t1=image/png")
    if len(set(keys)) < len(keys) or (len(keys) > 1 and "single" in keys):
        raise UsageError("Several inputs are KEY=MIME each, with keys of their own: t1=MIME flair=MIME")
    return {key: _mimes(text) for key, (_, text) in zip(keys, pairs)}


def _mimes(text: str) -> tuple[str, ...]:
    mimes = tuple(dict.fromkeys(text.split(",")))
    if unknown := [mime for mime in mimes if mime not in phantoms.TYPES]:
        raise UsageError(
            f"{shown(unknown[0])!r} is no type of image known here. Known: {', '.join(phantoms.TYPES)} (.npy).\n"
            "Begin with one of them; config.json can name others."
        )
    return mimes


def parse_outputs(text: str) -> dict[str, str]:
    """The types by name, of NAME:TYPE, or TYPE alone, for each output. Raises UsageError.

    >>> parse_outputs("lung:mask_image vector")
    {'lung': 'mask_image', 'vector': 'vector'}
    """
    outputs: dict[str, str] = {}
    for word in text.split() or [""]:
        name, _, kind = word.rpartition(":")
        name = name or kind
        if kind not in OUTPUT_TYPES:
            raise UsageError(f"{shown(kind)!r} is no type of output. There are: {', '.join(OUTPUT_TYPES)}")
        if not _OUTPUT_NAME.fullmatch(name) or name in outputs:
            raise UsageError(
                f"{shown(word)!r}: each output needs a name of its own, of letters, digits, '-' and '_'. "
                f"For example: lesion:{kind}"
            )
        outputs[name] = kind
    return outputs


def create(wanted: Wanted, folder: Path) -> list[str]:
    """Write the contribution into a folder that is new or empty; the paths in it.

    Raises UsageError for a folder that holds something, TryAgainError or UnfitError where writing fails.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{shown(folder)} exists and is not an empty folder. Choose another place with --dir.")
    files = _files(wanted)  # all of it, before anything is written
    with storage(folder):
        for path, content in files.items():
            _write(folder / path, content)
    return sorted(files)


def sample(wanted: Wanted) -> str:
    """The path of the sample that a new contribution comes with."""
    return f"contrib_src/sample_data/{_sample_name(wanted)}"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if content.startswith(b"#!"):
        path.chmod(0o755)


def _files(wanted: Wanted) -> dict[str, bytes]:
    """Path -> content of the whole contribution."""
    texts = {
        "init/init.json": _json({"docker_id": wanted.image, "external_contrib_files": []}),
        "contrib_src/model/config.json": _json(_config(wanted)),
    }
    if "label_list" in wanted.outputs.values():
        texts["contrib_src/model/labels.json"] = _json(_LABELS)
    return {
        **dict(_template(_words(wanted))),
        **{path: text.encode() for path, text in texts.items()},
        **{f"contrib_src/sample_data/{name}": data for name, data in _samples(wanted).items()},
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=4, ensure_ascii=False) + "\n"


def _config(wanted: Wanted) -> dict[str, Any]:
    kind = next(iter(wanted.outputs.values()))
    return {
        "id": str(uuid.uuid4()),
        "meta": {
            "name": wanted.name,
            "application_area": "Unspecified",
            "task": _TASKS[kind],
            "task_extended": f"{_TASKS[kind]} by brightness",
            "data_type": "Image",
        },
        "model": {
            "description": STAND_IN,
            "provenance": "Made by mh-hpc init.",
            "architecture": "None: brightness against its mean",
            "learning_type": "None",
            "format": ".py",
            "io": {"input": _config_inputs(wanted), "output": _config_outputs(wanted)},
        },
        "modelhub": {"version": "0.1.0", "backend": list(wanted.backend)},
    }


def _config_inputs(wanted: Wanted) -> dict[str, Any]:
    formats = wanted.inputs["single"] if wanted.single else ("application/json",)
    named = {
        key: {"format": list(mimes), "dim_limits": _LIMITS, "description": "Any image."}
        for key, mimes in wanted.inputs.items()
    }
    return {"format": list(formats), **named}


def _config_outputs(wanted: Wanted) -> list[dict[str, str]]:
    axes = _axes(wanted)
    shaped = ("mask_image", "heatmap", "image")
    return [
        {
            "name": name,
            "type": kind,
            "description": _functions()[kind][1],
            **({"axes": axes} if axes and kind in shaped else {}),
        }
        for name, kind in wanted.outputs.items()
    ]


def _axes(wanted: Wanted) -> str:
    """Of the arrays that have the image's shape; "" where that depends on the file."""
    mimes = {mime for each in wanted.inputs.values() for mime in each}
    if "application/octet-stream" in mimes:
        return ""
    if not mimes & phantoms.VOLUMES:
        return "y,x"
    return "z,y,x" if mimes <= phantoms.VOLUMES else ""


def _functions() -> dict[str, tuple[str, str]]:
    """The source of the stand-in for each type of output, and what it says of itself."""
    source = (resources.folder("registry") / "template/outputs.py").read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            says = str(ast.get_docstring(node)).removeprefix("Return ")
            found[node.name] = (str(ast.get_source_segment(source, node)), says[0].upper() + says[1:])
    return found


def _words(wanted: Wanted) -> dict[str, str]:
    """What the placeholders of the template mean for this contribution."""
    kinds = list(dict.fromkeys(wanted.outputs.values()))
    calls = [f"{kind}(inferenceResults)" for kind in wanted.outputs.values()]
    one = len(calls) == 1
    return {
        "name": wanted.name,
        "title": json.dumps(wanted.name),  # which YAML reads too
        "author": wanted.author,
        "quotedauthor": json.dumps(wanted.author, ensure_ascii=False),
        "year": str(datetime.date.today().year),
        "licence": wanted.licence,
        "image": wanted.image,
        "sample": _sample_name(wanted),
        "input": "the image file input" if wanted.single else 'the files {key: {"fileurl": path}} of input',
        "load": "\n".join(f"        {line}" for line in _load(wanted)),
        "imports": "\n".join([*(["import json", ""] if "label_list" in kinds else []), "import numpy"]),
        "promise": "the output" if one else "one value for each output of config.json, in its order",
        "outputs": calls[0] if one else f"[{', '.join(calls)}]",
        "functions": "\n\n\n".join(_functions()[kind][0] for kind in kinds),
        "facts": "\n".join(_facts(wanted)),
    }


def _load(wanted: Wanted) -> Iterator[str]:
    if wanted.single:
        yield "image = self._imageProcessor.loadAndPreprocess(input)"
        return
    yield "images = ["
    yield '    self._imageProcessor.loadAndPreprocess(input[key]["fileurl"], id=key)'
    yield f"    for key in {json.dumps(list(wanted.inputs))}"
    yield "]"
    yield "image = sum(images) / len(images)"


def _facts(wanted: Wanted) -> Iterator[str]:
    for key, mimes in wanted.inputs.items():
        yield f"| Input{'' if key == 'single' else f' `{key}`'} | {', '.join(mimes)} |"
    for name, kind in wanted.outputs.items():
        yield f"| Output `{name}` | {kind} |"


def _template(words: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Path and content of the files of registry/template; those that end in .in have placeholders.

    A package carries no files whose names begin with a dot: they are called dot-NAME there.
    """
    top = resources.folder("registry") / "template"
    chosen = {"licences/" + words["licence"]: "contrib_src/license/model"}
    for path in sorted(each for each in top.rglob("*") if each.is_file()):
        name = str(path.relative_to(top))
        if name.startswith("licences/") and name not in chosen or name == "outputs.py" or "__pycache__" in name:
            continue
        target = chosen.get(name, re.sub("(^|/)dot-", r"\1.", name))
        content = path.read_bytes()
        if target.endswith(".in") or name in chosen:
            content = PLACEHOLDER.sub(lambda match: words[match[1]], content.decode()).encode()
        yield target.removesuffix(".in"), content


def _sample_name(wanted: Wanted) -> str:
    return f"sample{phantoms.make(wanted.inputs['single'][0])[0]}" if wanted.single else "sample.json"


def _samples(wanted: Wanted) -> dict[str, bytes]:
    """Names and contents of the sample; several inputs lie in a folder, and a JSON file names them."""
    made = {key: phantoms.make(mimes[0]) for key, mimes in wanted.inputs.items()}
    if wanted.single:
        return {_sample_name(wanted): made["single"][1]}
    files = {f"sample/{key}{extension}": data for key, (extension, data) in made.items()}
    named = {
        key: {"format": [wanted.inputs[key][0]], "fileurl": path} for key, path in zip(wanted.inputs, files)
    }
    case = {"format": ["application/json"], **named}
    return {**files, _sample_name(wanted): _json(case).encode()}
