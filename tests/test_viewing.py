"""What is drawn of inputs and outputs, against what other libraries read of the same files."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from grounds import REPO
from PIL import Image as Pictures
from PIL import ImageDraw

from modelhub_hpc import viewing
from modelhub_hpc.inputs import Geometry
from modelhub_hpc.viewing import charts, exports, layers, outlines, views
from modelhub_hpc.viewing.images import Unviewable

SLICE = REPO / "registry/contributions/phantom-lesion/contrib_src/sample_data/slice-01.dcm"
EXPECTED = SLICE.parent / "expected"
FLAIR = REPO / "registry/contributions/phantom-brats/contrib_src/sample_data/patient/flair.nii.gz"


def expected(name: str) -> Any:
    """An output of the slice, as it is kept beside the sample."""
    outputs = json.loads((EXPECTED / "slice-01.dcm.json").read_bytes())["outputs"]
    output = next(each for each in outputs if each["name"] == name)
    return np.load(EXPECTED / output["file"]) if "file" in output else output["prediction"]


# -- inputs -------------------------------------------------------------------------------------------------------


def test_a_dicom_slice_has_the_values_window_and_place_that_its_header_says(tmp_path: Path) -> None:
    image = viewing.read(str(SLICE))
    assert np.array_equal(image.voxels, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(SLICE))))
    assert (image.modality, image.unit) == ("CT", "HU") and image.geometry is not None
    assert image.window == (-160.0, 240.0)  # the header asks for none
    header = pydicom.dcmread(SLICE)
    header.WindowCenter, header.WindowWidth = [300, 40], [2000, 400]
    header.save_as(tmp_path / "a.dcm")
    assert viewing.read(str(tmp_path / "a.dcm")).window == (-700.0, 1300.0)


def test_inverted_greys_are_shown_as_they_are_meant(tmp_path: Path) -> None:
    header = pydicom.dcmread(SLICE)
    header.PhotometricInterpretation = "MONOCHROME1"
    header.save_as(tmp_path / "a.dcm")
    low, high = viewing.read(str(tmp_path / "a.dcm")).window
    assert low > high
    assert layers.grey(np.array([[low, high]]), (low, high)).tolist() == [[0, 255]]


def test_a_series_is_stacked_along_its_normal_whatever_its_files_are_called(tmp_path: Path) -> None:
    for number in range(4):
        header = pydicom.dcmread(SLICE)
        header.ImagePositionPatient = [0.0, 0.0, 5.0 * number]
        header.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        header.SOPInstanceUID = f"1.2.{number + 1}"
        header.PixelData = np.full((header.Rows, header.Columns), number, np.uint16).tobytes()
        header.save_as(tmp_path / f"{9 - number}.dcm")
    image = viewing.read(str(tmp_path))
    slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
    assert image.voxels[:, 0, 0].tolist() == [number * slope + intercept for number in range(4)]
    assert image.geometry is not None and image.geometry.size[2] == 4 and image.geometry.spacing[2] == 5.0


def test_a_nifti_volume_is_read_as_others_read_it(tmp_path: Path) -> None:
    image = viewing.read(str(FLAIR))
    assert np.array_equal(image.voxels, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(FLAIR))))
    nibabel.Nifti1Image(np.arange(48.0).reshape(2, 3, 4, 2), np.eye(4)).to_filename(tmp_path / "a.nii")
    several = viewing.read(str(tmp_path / "a.nii"))
    assert several.voxels.shape == (4, 3, 2) and several.voxels[0, 0, 1] == 24.0
    assert several.notes == ("The first of 2 volumes is shown.",)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16", "LA", "CMYK"])
def test_pictures_of_every_kind(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Pictures.fromarray(np.tile(np.arange(0, 250, 10, np.uint8), (4, 1))).convert(mode).save(path)
    image = viewing.read(str(path))
    assert image.voxels.shape[:3] == (1, 4, 25) and image.picture
    shown = layers.grey(image.voxels[0], image.window)
    assert shown.min() < 20 and shown.max() > 200


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    for name, array in (("a", np.zeros(3)), ("b", np.zeros((2, 2, 2, 2))), ("c", np.array([["a", "b"]]))):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(Unviewable, match="is no image"):
            viewing.read(str(tmp_path / f"{name}.npy"))
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n")
    with pytest.raises(Unviewable, match="application/nrrd are not shown"):
        viewing.read(str(tmp_path / "a.nrrd"))
    header = pydicom.dcmread(SLICE)
    header.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    header["PixelData"].VR = "OB"
    header.PixelData = pydicom.encaps.encapsulate([b"no image"])
    header.save_as(tmp_path / "a.dcm")
    with pytest.raises(Unviewable, match="cannot be decoded here"):
        viewing.read(str(tmp_path / "a.dcm"))


# -- how it lies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_every_orientation_is_turned_as_nibabel_turns_it(
    axes: tuple[int, ...], signs: tuple[int, ...], tmp_path: Path
) -> None:
    affine = np.zeros((4, 4))
    for voxel_axis, (world, sign) in enumerate(zip(axes, signs)):
        affine[world, voxel_axis] = sign * (world + 1.0)
    affine[3, 3] = 1
    # and a little oblique, as scans are
    tilt = nibabel.eulerangles.euler2mat(0.1, -0.15, 0.2)
    affine[:3, :3] = tilt @ affine[:3, :3]
    stored = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)
    stored.to_filename(tmp_path / "a.nii")
    image = viewing.read(str(tmp_path / "a.nii"))
    pose = viewing.Pose.of(image.geometry)
    canonical = nibabel.as_closest_canonical(stored)  # to the right, to the front, to the head
    wanted = np.asarray(canonical.dataobj)[::-1, ::-1, :].transpose(2, 1, 0)
    assert np.array_equal(pose.turned(image.voxels), wanted)
    assert pose.spacing(image.geometry) == pytest.approx(canonical.header.get_zooms()[::-1])


@pytest.mark.parametrize("signs", list(itertools.product((1.0, -1.0), repeat=3)))
def test_an_outline_lies_where_its_mask_lies(signs: tuple[float, ...]) -> None:
    labels = np.zeros((3, 8, 10), np.uint8)
    labels[1, 2:4, 5:9] = 1
    ring = [[4.5, 1.5, 1], [8.5, 1.5, 1], [8.5, 3.5, 1], [4.5, 3.5, 1]]
    place = Geometry((10, 8, 3), (2.0, 3.0, 4.0), (0.0, 0.0, 0.0), tuple(np.diag(signs).ravel()))
    image = viewing.Image(labels, place, (0, 1))
    outline = outlines.outline("ring", [ring])
    assert outline is not None
    view, _ = viewing.view_of(image, viewing.layers_of("m", "mask_image", labels, "z,y,x", None), [outline])
    assert view is not None and view.richest("axial") == 1
    path = view.drawn(outline, "axial", 1)
    points = [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
    drawn = Pictures.new("L", (20, 24))
    # the edge itself is left out: a pixel counts as inside where its centre is
    middle_x, middle_y = (sum(each) / 4 for each in zip(*points))
    shrunk = [(x - math.copysign(0.75, x - middle_x), y - math.copysign(0.75, y - middle_y)) for x, y in points]
    ImageDraw.Draw(drawn).polygon(shrunk, fill=1)
    centres = np.asarray(drawn)[1::3, 1::2]
    assert np.array_equal(centres.astype(bool), view.overlay(view.layers[0], "axial", 1)[..., 3] > 0)
    assert view.drawn(outline, "axial", 0) == "" and view.drawn(outline, "coronal", 1) == ""


def test_heads_are_up_and_the_right_is_on_the_left() -> None:
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[3, 0, 0] = 255  # head, front, right in LPS order
    place = Geometry((6, 5, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    view, _ = viewing.view_of(viewing.Image(voxels, place, (0, 255)), ())
    assert view is not None and view.planes == ("axial", "coronal", "sagittal")
    assert view.ground("axial", 3)[0, 0] == 255
    assert view.ground("coronal", 0)[0, 0] == 255
    assert view.ground("sagittal", 0)[0, 0] == 255
    assert [view.pose.edges(plane) for plane in viewing.PLANES] == ["RLAP", "RLSI", "APSI"]


# -- outputs ----------------------------------------------------------------------------------------------------------


def test_the_outputs_of_a_slice_lie_on_it() -> None:
    image = viewing.read(str(SLICE))
    mask, heat = expected("mask"), expected("probability")
    grid = (1, *mask.shape)
    found = (
        *viewing.layers_of("mask", "mask_image", mask, "y,x", grid),
        *viewing.layers_of("probability", "heatmap", heat, "y,x", grid),
        *viewing.layers_of("overlay", "image", expected("overlay"), "y,x,c", grid),
    )
    outline = outlines.outline("outline", expected("outline"))
    assert outline is not None
    view, others = viewing.view_of(image, found, [outline])
    assert view is not None and [layer.kind for layer in view.layers] == ["mask", "heat", "picture"] and not others
    shown = view.overlay(view.layers[0], view.pose.plane, 0)
    assert set(map(tuple, shown[shown[..., 3] > 0].tolist())) == {(*layers.LABEL_COLOURS[0], 255)}
    assert (shown[..., 3] > 0).sum() == mask.sum() == view.layers[0].labels[1]
    assert np.array_equal(view.overlay(view.layers[2], view.pose.plane, 0)[..., 3], np.full(mask.shape, 255))


@pytest.mark.parametrize("axes", ["z,y,x", "x,y,z", "y,x,z", "c,z,y,x", "z,y,x,c"])
def test_axes_in_any_order(axes: str) -> None:
    names = axes.split(",")
    voxels = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    source = voxels[np.newaxis] if "c" in names else voxels
    order = ["c", "z", "y", "x"] if "c" in names else ["z", "y", "x"]
    array = source.transpose([order.index(name) for name in names])
    (layer,) = viewing.layers_of("a", "heatmap", array, axes, None)
    assert np.array_equal(layer.voxels, voxels)


def test_channels_become_layers_of_their_own_and_colours_do_not() -> None:
    channels = np.zeros((4, 3, 5, 6), np.float32)
    names = [layer.name for layer in viewing.layers_of("p", "heatmap", channels, "c,z,y,x", None)]
    assert names == ["p 0", "p 1", "p 2", "p 3"]
    (picture,) = viewing.layers_of("p", "image", np.zeros((5, 6, 3), np.float32), "y,x,c", None)
    assert picture.voxels.shape == (1, 5, 6, 3)


def test_undeclared_axes_are_those_that_fit_the_input() -> None:
    array = np.zeros((6, 5, 4), np.uint8)
    array[5, 1, 2] = 1
    (layer,) = viewing.layers_of("m", "mask_image", array, "", (4, 5, 6))
    assert layer.voxels[2, 1, 5] == 1 and "x,y,z has the shape of the input" in layer.notes[0]
    (other,) = viewing.layers_of("m", "mask_image", array, "", (9, 9, 9))
    assert other.voxels.shape == (6, 5, 4) and not other.notes


def test_another_grid_is_shown_by_itself() -> None:
    image = viewing.Image(np.zeros((1, 8, 8), np.uint8), None, (0, 255))
    (layer,) = viewing.layers_of("cam", "heatmap", np.ones((4, 4)), "y,x", (1, 8, 8))
    view, (other,) = viewing.view_of(image, [layer])
    assert view is not None and view.layers == () and other.layers == (layer,)
    assert other.notes == ("cam has 4 x 4 x 1 voxels and the input 8 x 8 x 1: it is shown by itself.",)


def test_strange_numbers_are_drawn_as_nothing() -> None:
    odd = np.array([[np.nan, np.inf], [-np.inf, 2.0]])
    (heat,) = viewing.layers_of("h", "heatmap", odd, "y,x", None)
    assert layers.rgba(heat, heat.voxels[0])[..., 3].tolist() == [[0, 255], [0, 255]]
    (mask,) = viewing.layers_of("m", "mask_image", odd, "y,x", None)
    assert mask.labels == {2: 1}
    for array in (np.zeros((0, 3)), np.array([["a"]]), np.zeros(4), np.array([None]), np.zeros((1, 1))):
        assert viewing.layers_of("a", "mask_image", array, "", (1, 2, 2)) == ()


def test_png_holds_the_pixels_as_they_are() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (5, 7, 4), np.uint8)
    assert np.array_equal(np.asarray(Pictures.open(io.BytesIO(views.png(pixels)))), pixels)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "int64", "float16", "float32", "float64"])
def test_a_nifti_to_take_away_lies_where_the_input_lies(dtype: str, tmp_path: Path) -> None:
    image = viewing.read(str(FLAIR))
    voxels = (image.voxels > image.voxels.mean()).astype(dtype)
    (tmp_path / "a.nii.gz").write_bytes(exports.nifti(voxels, image.geometry))
    read, source = (SimpleITK.ReadImage(str(path)) for path in (tmp_path / "a.nii.gz", FLAIR))
    assert np.array_equal(SimpleITK.GetArrayFromImage(read), voxels)
    for ask in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(read, ask)() == pytest.approx(getattr(source, ask)(), abs=1e-5)


def test_bars_of_labels_are_sorted_and_bear_with_anything() -> None:
    given = [{"label": "a", "probability": 0.2}, {"label": 7, "probability": None}, {"label": "b", "probability": 0.7}]
    found = charts.labels(given)
    assert found is not None and [(each.name, each.share) for each in found] == [("b", 0.7), ("a", 0.2), ("7", 0.0)]
    assert charts.labels([given]) == found
    for odd in (None, [], {}, [1], [{"probability": 1}], "text", [[]]):
        assert charts.labels(odd) is None


def test_a_plot_has_a_bar_for_each_number_or_for_each_group_of_many() -> None:
    plot = charts.plot(np.array([1.0, -1.0, np.nan, 3.0]))
    assert plot is not None and (plot.low, plot.high, plot.zero, plot.grouped) == (-1.0, 3.0, 75.0, 1)
    assert plot.path.count("M") == 3
    long = charts.plot(np.arange(10_000.0))
    assert long is not None and long.grouped == 25 and long.high == 9999.0
    assert charts.plot(np.array([np.nan])) is None and charts.plot(np.zeros(0)) is None


def test_contours_are_points_or_nothing() -> None:
    one = outlines.outline("a", [[0, 1], [2, 3]])
    assert one is not None and one.points == 2 and len(one.lines) == 1
    for odd in ([], None, [[1]], [[[1, 2], [3]]], [[[1, "2"]]], [[[True, 1]]], {"a": 1}, [[[math.inf, 1.0]]], [[], []]):
        assert outlines.outline("a", odd) is None


def test_summaries_and_tables() -> None:
    found = charts.summary(np.array([[1.0, np.nan], [3.0, 5.0]]))
    assert (found.smallest, found.largest, found.mean, found.missing) == (1.0, 5.0, 3.0, 1)
    assert charts.summary(np.array(["a"])).mean is None
    assert charts.table([{"a": 1, "b": [1, 2]}, {"a": "x", "b": None}]) == (["a", "b"], [[1, [1, 2]], ["x", None]])
    for odd in ([], [1], [{"a": 1}, {"b": 1}], [{"a": {}}], {"a": 1}, None):
        assert charts.table(odd) is None
