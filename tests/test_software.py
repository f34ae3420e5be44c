"""What an image holds, found without running any of it: Python, libraries, CUDA, the kind of machine."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from grown import OLD, PLAIN, PROGRAM, SCRIPT, by_code, env_script, grow

from modelhub_hpc.origin import ImageConfig
from modelhub_hpc.unpacked.audit import audit

DEBIAN = {
    "bin": "-> usr/bin",
    "usr/bin/python2.7": PROGRAM,
    "usr/bin/python": "-> python2.7",
    "usr/lib/python2.7/os.py": "",
    "usr/lib/python2.7/dist-packages/Pillow-5.1.0.egg-info/": "",
    "usr/local/lib/python2.7/dist-packages/mxnet_cu90-1.3.0.dist-info/": "",
    "usr/lib/python2.7/dist-packages/numpy/__init__.py": "",
    "var/lib/dpkg/status": "Package: sed\nVersion: 4\n\nPackage: python2.7-minimal\nStatus: ok\nVersion: 2.7.12-1\n",
}
BOTH = {
    **DEBIAN,
    "usr/bin/python3.5": PROGRAM,
    "usr/bin/python3": "-> python3.5",
    "usr/lib/python3.5/os.py": "",
}
CONDA = {
    "opt/conda/bin/python": "-> python3.8",
    "opt/conda/bin/python3.8": PROGRAM,
    "opt/conda/bin/conda": "#!/opt/conda/bin/python",
    "opt/conda/lib/python3.8/os.py": "",
    "opt/conda/lib/python3.8/site-packages/torch-1.13.1+cu117-py3.8.egg-info/": "",
    "opt/conda/lib/libcudart.so.11.7": "",
    "opt/conda/conda-meta/python-3.8.16-h7a1cb2a_3.json": "{}",
    "opt/conda/envs/seg/bin/python": PROGRAM,
    "opt/conda/envs/seg/lib/python3.7/os.py": "",
    "opt/conda/envs/seg/include/python3.7m/patchlevel.h": '#define PY_VERSION  "3.7.4"\n',
}
VENV = {
    "usr/local/bin/python3.10": PROGRAM,
    "usr/local/lib/python3.10/os.py": "",
    "usr/local/lib/python3.10/site-packages/numpy-1.0.dist-info/": "",
    "opt/venv/bin/python3": "-> /usr/local/bin/python3.10",
    "opt/venv/bin/python": "-> python3",
    "opt/venv/pyvenv.cfg": "home = /usr/local/bin\nversion = 3.10.9\n",
    "opt/venv/lib/python3.10/site-packages/tensorflow_gpu-2.11.0.dist-info/": "",
    "opt/venv/lib/python3.10/site-packages/numpy-1.24.1.dist-info/": "",
    "app/predict": "#!/opt/venv/bin/python\n",
    "app/start": "#!/usr/bin/env python3\n",
    SCRIPT: env_script({}).replace("/opt/bin:/bin", "/opt/venv/bin:/usr/local/bin:/bin"),
}
NONE = ImageConfig()


@pytest.mark.parametrize(
    ("things", "config", "interpreter", "version"),
    [
        (DEBIAN, OLD, "python", "2.7.12"),
        (DEBIAN, NONE, "python", "2.7.12"),
        (BOTH, OLD, "python", "2.7.12"),
        (BOTH, ImageConfig(cmd=("python3", "run.py")), "python3", "3.5"),
        # nothing says which: the one with numpy
        (BOTH, ImageConfig(cmd=("/bin/bash",)), "python", "2.7.12"),
        (BOTH, ImageConfig(cmd=("/bin/sh", "-c", "cd /app && exec python3 -u run.py")), "python3", "3.5"),
        (BOTH, ImageConfig(cmd=("bash", "-l", "-c", "echo 'open")), "python", "2.7.12"),
        (CONDA, OLD, "/opt/conda/bin/python", "3.8.16"),
        (CONDA, ImageConfig(cmd=("/opt/conda/bin/python", "x.py")), "/opt/conda/bin/python", "3.8.16"),
        (
            CONDA,
            ImageConfig(cmd=("conda", "run", "-n", "seg", "python")),
            "/opt/conda/envs/seg/bin/python",
            "3.7.4",
        ),
        (
            CONDA,
            ImageConfig(cmd=("bash", "-c", "source activate seg; python x.py")),
            "/opt/conda/envs/seg/bin/python",
            "3.7.4",
        ),
        (VENV, OLD, "python", "3.10.9"),
        (VENV, ImageConfig(entrypoint=("/app/predict",)), "/opt/venv/bin/python", "3.10.9"),
        (VENV, ImageConfig(entrypoint=("./start",), working_dir="/app"), "python3", "3.10.9"),
        (VENV, ImageConfig(cmd=("venv/bin/python",), working_dir="/opt"), "/opt/venv/bin/python", "3.10.9"),
        ({"bin/python": PROGRAM}, OLD, "python", ""),
        ({"bin/python": "not executable"}, OLD, "", ""),
        ({"bin/python": "-> python"}, OLD, "", ""),
    ],
)
def test_the_interpreter(
    tmp_path: Path, things: dict[str, str], config: ImageConfig, interpreter: str, version: str
) -> None:
    found = audit(grow(tmp_path / "t", things), config)
    assert (found.interpreter, found.python) == (interpreter, version)
    assert ("no-python" in by_code(found)) == (not interpreter)


def test_the_start_command_that_apptainer_recorded_counts_where_docker_is_silent(tmp_path: Path) -> None:
    runscript = "#!/bin/sh\nOCI_ENTRYPOINT=''\nOCI_CMD='\"python3\" \"run.py\"'\n"
    tree = grow(tmp_path / "t", {**BOTH, ".singularity.d/runscript": runscript})
    assert audit(tree, None).interpreter == "python3"


def test_libraries_are_those_that_the_interpreter_imports(tmp_path: Path) -> None:
    assert audit(grow(tmp_path / "debian", DEBIAN), OLD).frameworks == {"mxnet": "1.3.0", "pillow": "5.1.0"}
    assert audit(grow(tmp_path / "venv", VENV), OLD).frameworks == {"numpy": "1.24.1", "tensorflow": "2.11.0"}
    conda = audit(grow(tmp_path / "conda", CONDA), OLD)
    assert (conda.frameworks, conda.cuda) == ({"torch": "1.13.1+cu117"}, "11.7")


def test_caffe_which_keeps_no_record(tmp_path: Path) -> None:
    caffe = {"opt/caffe/python/caffe/__init__.py": "__version__ = '1.0.0-rc3'\n"}
    script = env_script({"PYTHONPATH": "relative:/opt/caffe/python:"})
    assert (
        audit(grow(tmp_path / "t", {**DEBIAN, **caffe, SCRIPT: script}), OLD).frameworks["caffe"]
        == "1.0.0-rc3"
    )


@pytest.mark.parametrize(
    ("things", "cuda"),
    [
        ({"usr/local/cuda/version.txt": "CUDA Version 9.0.176\n"}, "9.0.176"),
        (
            {
                "usr/local/cuda": "-> cuda-11.2",
                "usr/local/cuda-11.2/version.json": '{"cuda": {"version": "11.2.2"}}',
            },
            "11.2.2",
        ),
        ({SCRIPT: env_script({"CUDA_VERSION": "10.1.243"})}, "10.1.243"),
        ({"usr/local/cuda/lib64/libcudart.so.8.0": ""}, "8.0"),
        ({"usr/local/cuda/version.json": "[]"}, ""),
        ({}, ""),
    ],
)
def test_cuda(tmp_path: Path, things: dict[str, str], cuda: str) -> None:
    assert audit(grow(tmp_path / "t", things), OLD).cuda == cuda


@pytest.mark.parametrize(
    ("things", "version", "code"),
    [
        (
            {"lib/x86_64-linux-gnu/libc.so.6": "-> libc-2.23.so", "lib/x86_64-linux-gnu/libc-2.23.so": ""},
            "2.23",
            "old-glibc",
        ),
        (
            {
                "lib": "-> usr/lib",
                "usr/lib/libc.so.6": "\0GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n",
            },
            "2.36",
            "",
        ),
        ({"lib/ld-musl-x86_64.so.1": ""}, "", "musl"),
        ({}, "", ""),
    ],
)
def test_the_c_library(tmp_path: Path, things: dict[str, str], version: str, code: str) -> None:
    found = audit(grow(tmp_path / "t", things), OLD)
    assert found.glibc == version
    assert {"old-glibc", "musl"} & set(by_code(found)) == ({code} if code else set())


def program(machine: int, loader: bytes) -> bytes:
    """The beginning of a 64-bit little-endian program."""
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    )
    return header + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(loader), len(loader), 1) + loader


@pytest.mark.parametrize(
    ("machine", "loader", "architecture", "code"),
    [
        (183, b"/lib/ld-linux-aarch64.so.1\0", "arm64", "architecture"),
        (9999, b"/lib/ld.so\0", "ELF machine 9999", "architecture"),
        (62, b"/lib64/not-there.so.2\0", "amd64", "loader"),
        (62, b"/lib/ld.so\0", "amd64", ""),
    ],
)
def test_programs_tell_what_they_run_on(
    tmp_path: Path, machine: int, loader: bytes, architecture: str, code: str
) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers are those of x86_64")
    tree = grow(tmp_path / "t", {**PLAIN, "bin/python": PROGRAM, "lib/ld.so": ""})
    (tree / "bin/python").write_bytes(program(machine, loader))
    found = audit(tree, ImageConfig(cmd=("python",), architecture="amd64"))
    assert found.architecture == architecture
    assert {finding.code for finding in found.findings if finding.state == "open"} - (
        {"loader"} - {code}
    ) == ({code} - {""})


@pytest.mark.parametrize(
    "start", [b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 90, b"\x7fELF\x01\x02" + b"\xff" * 90]
)
def test_half_a_program_is_no_trouble(tmp_path: Path, start: bytes) -> None:
    tree = grow(tmp_path / "t", {"bin/python": PROGRAM})
    (tree / "bin/python").write_bytes(start)
    assert audit(tree, OLD).interpreter == "python"


def test_packages_without_byte_code_and_an_old_engine_are_said(tmp_path: Path) -> None:
    site = "usr/lib/python2.7/dist-packages"
    tree = grow(tmp_path / "t", {**DEBIAN, "framework/modelhubapi/__init__.py": ""})
    assert {"byte-code", "engine"} <= set(by_code(audit(tree, OLD)))
    grow(tree, {f"{site}/numpy/__init__.pyc": ""})
    assert "byte-code" not in by_code(audit(tree, OLD))
