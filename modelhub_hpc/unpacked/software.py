"""What is installed in an image, found without running anything: C library, CUDA, and the libraries of models."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from modelhub_hpc.unpacked.tree import Tree

_FRAMEWORKS = frozenset(
    "mxnet tensorflow keras torch torchvision caffe cntk theano lasagne fastai monai jax onnx onnxruntime paddlepaddle "
    "scikit-learn numpy scipy pillow simpleitk h5py nibabel pydicom opencv-python flask".split()
)
# a distribution's flavour is the same framework: tensorflow-gpu, mxnet-cu90, onnxruntime-gpu, opencv-python-headless
_FLAVOUR = re.compile(r"-(?:gpu|cpu|mkl|headless|cu\d+(?:mkl)?)$")
_INFO = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.+]*?(?:-[A-Za-z][\w.+]*?)*)-(?P<version>\d[^-]*)(?:-py\d.*)?\.(?:dist|egg)-info"
)
_EGG = re.compile(r"(?P<name>[A-Za-z0-9][\w.+]*)-(?P<version>\d[^-]*)-py\d.*\.egg")
_LIBC_LIMIT = 4 << 20
_CUDART = re.compile(r"libcudart(?:-\w+)?\.so\.(\d+(?:\.\d+)*)")


def library_folders(tree: Tree) -> list[str]:
    """Where an image keeps its shared libraries."""
    bases = ("/lib64", "/lib", "/usr/lib64", "/usr/lib")
    triples = [f"{base}/{name}" for base in bases for name in tree.names(base) if "-linux-gnu" in name]
    return [folder for folder in (*triples, *bases) if tree.is_folder(folder)]


def glibc_version(tree: Tree) -> str:
    """The version of the GNU C library, "2.23"; "" without one."""
    for folder in library_folders(tree):
        path = tree.resolve(f"{folder}/libc.so.6")
        if match := re.fullmatch(r"libc-(\d+\.\d+)\.so", os.path.basename(path)):
            return match[1]
        if said := re.search(rb"GNU C Library [^\n]*version (\d+\.\d+)", tree.read(path, _LIBC_LIMIT)):
            return said[1].decode()
    return ""


def has_musl(tree: Tree) -> bool:
    return any(name.startswith("ld-musl-") for name in tree.names("/lib"))


def cuda_version(tree: Tree, variables: Mapping[str, str], sites: Iterable[str]) -> str:
    """The version of the CUDA runtime that the image brings, as exact as can be told; "" without one."""
    found = (*_toolkit(tree), variables.get("CUDA_VERSION", ""), *_runtimes(tree, sites))
    return next((version for version in found if re.match(r"\d", version)), "")


def _toolkit(tree: Tree) -> Iterator[str]:
    try:
        yield str(json.loads(tree.read("/usr/local/cuda/version.json"))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):  # absent, or not what it was
        pass
    if match := re.search(r"CUDA Version (\d[\d.]*)", tree.text("/usr/local/cuda/version.txt")):
        yield match[1]


def _runtimes(tree: Tree, sites: Iterable[str]) -> Iterator[str]:
    """From the runtime library's name: of the toolkit, of NVIDIA's wheels, of PyTorch's, of conda's."""
    places = ("nvidia/cuda_runtime/lib", "torch/lib", "../..")
    of_python = [f"{site}/{place}" for site in sites for place in places]
    for folder in ("/usr/local/cuda/lib64", *library_folders(tree), *of_python):
        yield from (match[1] for name in tree.names(folder) if (match := _CUDART.fullmatch(name)))


def frameworks(tree: Tree, sites: Iterable[str], python_path: Iterable[str]) -> dict[str, str]:
    """Versions of the libraries that models are made of, by name, as one Python would import them."""
    found: dict[str, str] = {}
    for site in (*python_path, *sites):
        for name, version in _installed(tree, site):
            found.setdefault(name, version)
    return dict(sorted(found.items()))


def _installed(tree: Tree, site: str) -> Iterator[tuple[str, str]]:
    for entry in tree.names(site):
        if match := _INFO.fullmatch(entry) or _EGG.fullmatch(entry):
            name = _FLAVOUR.sub("", re.sub(r"[-_.]+", "-", match["name"]).lower())
            if name in _FRAMEWORKS:
                yield name, match["version"]
    # built from source, without a record of its installation
    caffe = tree.text(f"{site}/caffe/__init__.py")
    if match := re.search(r"^__version__ = '([\w.\-]+)'", caffe, re.MULTILINE):
        yield "caffe", match[1]


def lacks_byte_code(tree: Tree, sites: Iterable[str]) -> bool:
    """Whether most installed packages would be compiled anew at every start, which nothing can keep in a SIF."""
    folders = [f"{site}/{name}" for site in sites for name in tree.names(site)]
    packages = [folder for folder in folders if tree.is_file(f"{folder}/__init__.py")]
    return sum(not _compiled(tree, package) for package in packages) * 2 > len(packages)


def _compiled(tree: Tree, package: str) -> bool:
    return tree.is_folder(f"{package}/__pycache__") or tree.is_file(f"{package}/__init__.pyc")
