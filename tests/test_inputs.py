"""What the check says of sound, broken and hostile inputs, and what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import hostile
import numpy as np
import pytest

from modelhub_hpc.errors import InputError, shown
from modelhub_hpc.inputs import (
    InputLimits,
    accepts,
    check,
    geometry,
    identity,
    mime,
    non_finite,
    series_files,
    series_of,
)
from modelhub_hpc.contribution import InputSpec

LIMITS = InputLimits()
CODE_RAN = Path("/tmp/an-array-ran-code")


def spec(*formats: str, limits: tuple[tuple[int | None, int | None], ...] = ()) -> InputSpec:
    return InputSpec("single", formats, limits, "")


def fault(path: str | Path, limits: InputLimits = LIMITS) -> InputError:
    with pytest.raises(InputError) as caught:
        check(os.fspath(path), limits)
    return caught.value


@pytest.mark.parametrize("name", sorted(hostile.MAKERS))
def test_every_hostile_input_is_judged(name: str, tmp_path: Path) -> None:
    made = hostile.make(name, tmp_path)
    if made.ok:
        check(made.path, LIMITS)
    else:
        error = fault(made.path)
        assert error.kind == made.kind
        assert str(error).startswith(shown(os.fspath(tmp_path)))
        assert str(error).isprintable()
    assert not CODE_RAN.exists()


def test_messages_carry_their_evidence(tmp_path: Path) -> None:
    def text(name: str) -> str:
        return str(fault(hostile.make(name, tmp_path).path))

    assert "not a PNG: starts with b'patient 12: '" in text("text_named_png")
    assert "its header announces 2,272 bytes, 900 are there" in text("nii_truncated")
    assert "a link to nowhere.png, which does not exist" in text("link_dangling")
    assert "a named pipe" in text("fifo")
    assert "save it with a numeric dtype" in text("npy_evil")
    assert "a DICOM SR object without an image" in text("dicom_sr")
    assert "20000 x 20000 pixels" in text("png_bomb")
    assert "is not gzip" in text("nii_plain_named_gz")


def test_bombs_take_little_memory_and_time(tmp_path: Path) -> None:
    names = (
        "png_bomb",
        "png_small_header_bomb",
        "nii_bomb",
        "nii_hidden_bomb",
        "npz_bomb",
        "npy_huge_header",
        "nii_huge_dims",
        "nrrd_huge",
        "dicom_huge_frames",
        "dicom_deflated_bomb",
    )
    paths = [hostile.make(name, tmp_path).path for name in names]
    code = (
        "import sys\nfrom modelhub_hpc.inputs import check, InputLimits\n"
        "from modelhub_hpc.errors import InputError\n"
        "for path in sys.argv[1:]:\n"
        "    try: check(path, InputLimits())\n    except InputError as error: pass\n"
        # not ru_maxrss, which counts what the parent held when it forked
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    root = Path(__file__).resolve().parents[1]
    start = time.monotonic()
    command = [sys.executable, "-c", code, *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 1024
    assert time.monotonic() - start < 20


def test_a_small_png_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(hostile.png((30, 30)))
    start = time.process_time()
    for _ in range(1000):
        check(str(path), LIMITS)
    assert (time.process_time() - start) / 1000 < 0.3e-3


@pytest.mark.parametrize("cut", range(1, 60))
def test_no_cut_png_passes(cut: int, tmp_path: Path) -> None:
    data = hostile.png((20, 20), "RGB")
    path = tmp_path / "cut.png"
    path.write_bytes(data[: len(data) * cut // 60])
    assert fault(path).kind == "truncated" if cut > 1 else fault(path).kind in ("truncated", "damaged")


def test_no_flipped_bit_in_a_png_passes(tmp_path: Path) -> None:
    data = hostile.png((6, 6))
    path = tmp_path / "flip.png"
    for at in range(8, len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert fault(path).kind in ("damaged", "truncated", "too-big"), at


@pytest.mark.parametrize(
    "maker",
    [
        "nii_ok",
        "nii_gz_ok",
        "dicom_ok",
        "dicom_rle_ok",
        "npy_ok",
        "npz_ok",
        "nrrd_ok",
        "nrrd_gzip_ok",
        "mha_ok",
        "mha_packed_ok",
        "jpg_ok",
    ],
)
def test_a_cut_file_never_passes_and_never_crashes(maker: str, tmp_path: Path) -> None:
    sound = Path(hostile.make(maker, tmp_path).path)
    data = sound.read_bytes()
    for cut in range(1, 40):
        sound.write_bytes(data[: len(data) * cut // 40])
        fault(sound)


@pytest.mark.parametrize(
    "maker",
    [
        "nii_ok",
        "nii_gz_ok",
        "nii_pair_ok",
        "dicom_ok",
        "dicom_rle_ok",
        "npy_ok",
        "npz_ok",
        "nrrd_ok",
        "mha_ok",
        "jpg_ok",
        "gif_ok",
        "tif_ok",
        "bmp_ok",
        "webp_ok",
    ],
)
def test_noise_in_the_header_is_at_most_an_input_error(maker: str, tmp_path: Path) -> None:
    sound = Path(hostile.make(maker, tmp_path).path)
    data = sound.read_bytes()
    noise = np.random.default_rng(5)
    for _ in range(100):
        changed = bytearray(data)
        for at in noise.integers(0, min(len(data), 600), 4):
            changed[at] = noise.integers(0, 256)
        sound.write_bytes(changed)
        for look in (lambda path: check(path, LIMITS), geometry, non_finite):
            try:
                look(str(sound))
            except InputError:
                continue  # allowed, as is passing: a changed spacing is no fault


def test_the_limits_are_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(hostile.png((100, 100)))
    check(str(path), InputLimits(max_pixels=10_000, max_elements=10_000))
    assert fault(path, InputLimits(max_pixels=9_999)).kind == "too-big"
    assert fault(path, InputLimits(max_elements=9_999)).kind == "too-big"
    assert fault(path, InputLimits(max_bytes=100)).kind == "too-big"


def test_a_device_and_a_file_as_folder(tmp_path: Path) -> None:
    assert fault("/dev/zero").kind == "not-a-file"
    (tmp_path / "a").write_bytes(b"x")
    assert fault(tmp_path / "a" / "b.png").kind == "missing"


def test_an_unknown_format_needs_only_to_be_there(tmp_path: Path) -> None:
    path = tmp_path / "signal.edf"
    path.write_bytes(b"anything")
    check(str(path), LIMITS)


def test_identity(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1_000_000_007))
    assert identity(str(path)) == (5, 1_000_000_007)
    (tmp_path / "b.png").write_bytes(b"123")
    os.utime(tmp_path / "b.png", ns=(1, 2_000_000_009))
    assert identity(str(tmp_path)) == (8, 2_000_000_009)
    with pytest.raises(InputError) as caught:
        identity(str(tmp_path / "gone"))
    assert caught.value.kind == "missing"


def test_non_finite_voxels_are_counted(tmp_path: Path) -> None:
    assert non_finite(hostile.make("nii_nan", tmp_path).path) == 3
    assert non_finite(hostile.make("nii_gz_ok", tmp_path).path) == 0
    assert non_finite(hostile.make("nii_ok", tmp_path).path) is None
    assert non_finite(hostile.make("png_ok", tmp_path).path) is None


def test_non_finite_counts_across_blocks(tmp_path: Path) -> None:
    voxels = np.zeros((100, 100, 120), dtype=np.float64)  # 9.6 MB: more than one block, and no multiple of it
    voxels[::7, ::5, ::3] = np.nan
    for name in ("a.nii", "a.nii.gz"):
        hostile.nifti(voxels, str(tmp_path / name))
        assert non_finite(str(tmp_path / name)) == int(np.isnan(voxels).sum())


@pytest.mark.parametrize("maker", ["nii_ok", "nii_gz_ok", "nrrd_ok", "nrrd_detached_ok", "mha_ok", "mhd_ok"])
def test_geometry_of_one_grid_is_the_same_in_every_format(maker: str, tmp_path: Path) -> None:
    found = geometry(hostile.make(maker, tmp_path).path)
    assert found is not None
    assert found.size == (12, 10, 8)
    assert found.spacing == pytest.approx((1, 2, 3))
    assert found.origin == pytest.approx((-10, -20, 30))
    flip = -1.0 if maker.startswith("nii") else 1.0  # the NIfTI's axes run to the right and to the front
    assert found.direction == pytest.approx((flip, 0, 0, 0, flip, 0, 0, 0, 1))


def test_geometry_of_dicom(tmp_path: Path) -> None:
    series = geometry(hostile.make("dicom_series", tmp_path).path)
    assert series is not None
    assert (series.size, series.spacing, series.origin) == ((16, 12, 5), (0.75, 0.5, 2.5), (-8.0, -6.0, 2.5))
    one = geometry(hostile.make("dicom_ok", tmp_path).path)
    assert one is not None
    assert one.size == (16, 12, 1)
    assert geometry(hostile.make("png_ok", tmp_path).path) is None
    assert geometry(hostile.make("dicom_series_sizes", tmp_path).path) is None


def test_a_series_with_a_gap_has_no_geometry_and_one_among_others_has_its_own(tmp_path: Path) -> None:
    hostile.dicom_series(str(tmp_path / "gap"))
    (tmp_path / "gap" / "1.2.3-10.dcm").unlink()  # the third of five
    assert geometry(str(tmp_path / "gap")) is None
    folder = hostile.make("dicom_two_series", tmp_path).path
    one = geometry(folder, series_files(folder, "1.2.4"))
    assert one is not None and one.size == (16, 12, 5)


def test_series_are_told_apart(tmp_path: Path) -> None:
    folder = hostile.make("dicom_two_series", tmp_path).path
    files = series_files(folder, "1.2.4")
    assert len(files) == 5
    assert {found.uid for path in files if (found := series_of(path))} == {"1.2.4"}
    implicit = series_of(hostile.make("dicom_implicit_ok", tmp_path).path)
    bare = series_of(hostile.make("dicom_no_preamble", tmp_path).path)
    assert implicit is not None and bare is not None
    assert (implicit.uid, implicit.modality) == (bare.uid, bare.modality) == ("1.2.3", "CT")


def test_a_uid_inside_a_sequence_is_not_the_series(tmp_path: Path) -> None:
    from pydicom import Dataset, Sequence

    inner = Dataset()
    inner.SeriesInstanceUID = "9.9.9"
    path = str(tmp_path / "a.dcm")
    hostile.dicom(path, ReferencedSeriesSequence=Sequence([inner]))
    found = series_of(path)
    assert found is not None
    assert found.uid == "1.2.3"


def test_mime_goes_by_the_name_alone() -> None:
    names = {
        "a.PNG": "image/png",
        "a.jfif": "image/jpeg",
        "a.nii": "application/nii",
        "x/a.b.nii.gz": "application/nii-gzip",
        "a.ima": "application/dicom",
        "a.npz": "application/octet-stream",
        "a.gz": None,
        "a": None,
        ".png": None,
        "a.txt": None,
    }
    assert {name: mime(f"/nowhere/{name}") for name in names} == names


@pytest.mark.parametrize(
    ("formats", "name", "takes"),
    [
        (("image/jpg",), "a.jpeg", True),
        (("image/jpeg",), "a.jpg", True),
        (("image/png",), "a.jpg", False),
        (("application/nii",), "a.nii.gz", True),
        (("application/nii-gzip",), "a.nii", True),
        ((), "a.nrrd", True),
        ((), "a.txt", False),
        (("image/*",), "a.webp", True),
        (("image/*",), "a.nii", False),
        (("IMAGE/PNG ",), "a.png", True),
        (("application/octet-stream",), "a.npy", True),
    ],
)
def test_accepts_modelhubs_spellings(formats: tuple[str, ...], name: str, takes: bool) -> None:
    assert accepts(spec(*formats), f"/nowhere/{name}") is takes


def test_accepts_looks_inside_only_where_the_name_says_nothing(tmp_path: Path) -> None:
    hostile.dicom(str(tmp_path / "IM1"))
    hostile.dicom(str(tmp_path / "1.2.840.113"))
    hostile.dicom(str(tmp_path / "odd.txt"))
    (tmp_path / "README").write_text("no image")
    os.mkfifo(tmp_path / "pipe")
    dicom = spec("application/dicom")
    names = ("IM1", "1.2.840.113", "odd.txt", "README", "pipe", "gone")
    assert [name for name in names if accepts(dicom, str(tmp_path / name))] == ["IM1", "1.2.840.113"]


def test_shown_is_one_printable_line() -> None:
    for path in ("/a\nb", "/\udcff\udcfe", "/\u202egnp.exe", "/ok"):
        assert shown(path).isprintable()
    assert shown("/größe 日本.png") == "/größe 日本.png"
