"""The pages in a real browser: find a model, try it with each kind of output, see what it gives, follow a run."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from grounds import OBEDIENT, REPO
from PIL import Image
from servekit import Endpoint
from visiting import MODELS, Enter, Visit

SAMPLES = {name: REPO / "registry/contributions" / name / "contrib_src/sample_data" for name in (
    "digits-cnn", "digits-embedding", "phantom-brats", "phantom-lesion")}  # fmt: skip
ORANGE = np.array([230, 159, 0])  # of the first label


def expected(model: str, sample: str, output: int) -> Any:
    """What the model is known to say of its sample."""
    folder = SAMPLES[model] / "expected"
    found = json.loads((folder / f"{sample}.json").read_bytes())["outputs"][output]
    return np.load(folder / found["file"]) if "file" in found else found["prediction"]


def try_sample(visit: Visit, model: str, sample: str) -> None:
    visit.open(f"/models/{model}/try")
    visit.page.locator(f"button[value='{sample}']").click()
    visit.page.wait_for_url("**/results/*")


def seen(visit: Visit, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The colour that the viewer has in the middle of each pixel: rows, columns, RGB."""
    visit.settle()
    stage = visit.page.locator(".stage").first
    picture = np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("RGB")).astype(np.int64)
    # the drawing is fitted into its element, as large as it can be
    box = stage.evaluate(
        "s => { const b = s.getBoundingClientRect(), m = s.getScreenCTM(), v = s.viewBox.baseVal;"
        " return [m.f - b.top, m.e - b.left, v.height * m.d, v.width * m.a]; }"
    )
    rows = box[0] + (np.arange(shape[0]) + 0.5) * box[2] / shape[0]
    columns = box[1] + (np.arange(shape[1]) + 0.5) * box[3] / shape[1]
    return picture[rows.astype(int)][:, columns.astype(int)]


def grey(values: npt.NDArray[Any], level: float, width: float) -> npt.NDArray[np.float64]:
    """Values in a window, as rows, columns, RGB."""
    share = ((values - (level - width / 2)) / width).clip(0, 1) * 255
    return np.repeat(share[..., np.newaxis], 3, axis=-1)


def set_range(visit: Visit, label: str, value: float) -> None:
    visit.page.get_by_label(label, exact=True).first.fill(str(value))


def hounsfield(sample: str) -> npt.NDArray[np.float64]:
    header = pydicom.dcmread(SAMPLES["phantom-lesion"] / sample)
    return header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)


# -- find ---------------------------------------------------------------------------------------------------------


def test_a_model_is_found_and_opened(visit: Visit) -> None:
    page = visit.page
    every = page.locator(".card").count()
    page.get_by_label("Search").fill("brain tumour mri")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=brain**")
    found = page.locator(".card h2").all_inner_texts()
    assert 0 < len(found) < every and "MIC DKFZ brain tumour segmentation" in found
    page.get_by_role("link", name="Show all").click()
    page.get_by_text("Filters").click()
    page.get_by_label("Framework").select_option("caffe")
    page.get_by_label("Task").select_option("Segmentation")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**backend=caffe**")
    assert page.locator(".card h2").all_inner_texts() == ["Cascaded FCN for the liver"]
    page.get_by_role("link", name="Cascaded FCN for the liver").click()
    assert page.locator("h1").inner_text() == "Cascaded FCN for the liver"
    assert "mh-hpc pull cascaded-fcn-liver" in page.locator(".command").all_inner_texts()[0]
    page.get_by_text("BibTeX").click()
    assert re.match(r"@\w+{", page.locator("details[open] pre").inner_text())


def test_a_word_that_no_model_has_leads_to_one_that_some_have(visit: Visit) -> None:
    visit.open("/?q=segmentatoin")
    assert visit.page.get_by_role("status").inner_text().startswith("No model is like that.")
    visit.page.get_by_role("link", name="segmentation").click()
    visit.page.locator(".card").nth(3).wait_for()


def test_commands_can_be_copied(visit: Visit) -> None:
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.open("/models/digits-cnn")
    visit.page.get_by_role("button", name="Copy").first.click()
    visit.page.get_by_role("button", name="Copied").wait_for()
    assert visit.page.evaluate("navigator.clipboard.readText()") == "mh-hpc run digits-cnn INPUT"


def test_the_keyboard_suffices(visit: Visit) -> None:
    page = visit.page
    visit.open("/models/digits-cnn/try")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "digit-0898.png":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/results/*")


# -- try: samples ----------------------------------------------------------------------------------------------------


def test_labels_are_bars_the_most_probable_first(visit: Visit) -> None:
    try_sample(visit, "digits-cnn", "digit-0902.png")
    wanted = sorted(expected("digits-cnn", "digit-0902.png", 0), key=lambda each: -each["probability"])
    names = visit.page.locator(".bars .name")
    assert names.all_inner_texts()[:5] == [each["label"] for each in wanted[:5]]
    assert not names.nth(5).is_visible()
    visit.page.get_by_text("The other 5").click()
    assert names.nth(9).is_visible()
    first = visit.page.locator(".bars .fill").first.bounding_box()
    track = visit.page.locator(".bars .track").first.bounding_box()
    assert first["width"] / track["width"] == pytest.approx(wanted[0]["probability"], abs=0.02)
    visit.shoot("result-labels-light-1280")


def test_a_vector_is_a_plot_and_a_table(visit: Visit) -> None:
    try_sample(visit, "digits-embedding", "digit-0900.png")
    wanted = expected("digits-embedding", "digit-0900.png", 0)
    visit.page.get_by_text("All numbers").click()
    values = [float(text) for text in visit.page.locator(".tall td").all_inner_texts()]
    assert values == pytest.approx(wanted.tolist(), rel=1e-3)
    assert visit.page.locator(".plot path").get_attribute("d").count("M") == np.count_nonzero(wanted)


def test_masks_heat_and_pictures_lie_over_the_slice_as_strong_as_their_sliders_say(visit: Visit) -> None:
    try_sample(visit, "phantom-lesion", "slice-01.dcm")
    visit.page.wait_for_selector(".edge.left")
    visit.shoot("result-lesion-light-1280")
    mask, heat, picture = (expected("phantom-lesion", "slice-01.dcm", output) for output in (0, 1, 3))
    values = hounsfield("slice-01.dcm")
    ground = grey(values, 40, 400)
    set_range(visit, "outline", 0)
    over = np.where(mask[..., np.newaxis] > 0, 0.5 * ground + 0.5 * ORANGE, ground)
    assert np.abs(seen(visit, mask.shape) - over).max() <= 2
    set_range(visit, "mask", 80)
    over = np.where(mask[..., np.newaxis] > 0, 0.2 * ground + 0.8 * ORANGE, ground)
    assert np.abs(seen(visit, mask.shape) - over).max() <= 2

    set_range(visit, "mask", 0)
    assert np.abs(seen(visit, mask.shape) - ground).max() <= 2
    set_range(visit, "probability", 100)
    sure, none = heat > 0.999, heat < 0.001
    found = seen(visit, mask.shape)
    assert sure.any() and np.abs(found[sure] - (252, 255, 190)).max() <= 2  # the brightest of its colours
    assert np.abs(found[none] - ground[none]).max() <= 2
    set_range(visit, "probability", 0)
    set_range(visit, "overlay", 100)
    assert np.abs(seen(visit, mask.shape) - picture).max() <= 2

    set_range(visit, "overlay", 0)
    visit.page.get_by_role("button", name="Lung").click()
    assert np.abs(seen(visit, mask.shape) - grey(values, -600, 1500)).max() <= 2
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Take this slice as PNG").click()
    taken = np.asarray(Image.open(download.value.path())).astype(np.int64)
    assert np.abs(taken - grey(values, -600, 1500)).max() <= 1


def test_an_outline_runs_around_its_mask(visit: Visit) -> None:
    try_sample(visit, "phantom-lesion", "slice-01.dcm")
    set_range(visit, "mask", 0)
    mask = expected("phantom-lesion", "slice-01.dcm", 0).astype(bool)
    changed = np.abs(seen(visit, mask.shape) - grey(hounsfield("slice-01.dcm"), 40, 400)).max(axis=-1) > 8
    padded = np.pad(mask, 1)
    neighbours = np.stack([padded[1 + y : 61 + y, 1 + x : 69 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)])
    near_an_edge = neighbours.any(axis=0) & ~neighbours.all(axis=0)
    assert not (changed & ~near_an_edge).any()
    stage = visit.page.locator(".stage")
    before = stage.screenshot()
    set_range(visit, "outline", 0)
    visit.settle()
    assert stage.screenshot() != before


def test_what_is_custom_is_told_in_rows_and_tables(visit: Visit) -> None:
    try_sample(visit, "phantom-lesion", "slice-01.dcm")
    wanted = expected("phantom-lesion", "slice-01.dcm", 4)
    section = visit.page.locator(".output", has_text="measurements")
    assert section.locator("dd").first.inner_text() == f"{wanted['area_mm2']:.4g}"
    assert section.locator("tbody tr").count() == len(wanted["lesions"])
    volume = visit.page.locator(".output", has_text="mask_image").locator("td").all_inner_texts()
    assert volume[0] == str(expected("phantom-lesion", "slice-01.dcm", 0).sum())


def test_a_volume_is_browsed_slice_by_slice(visit: Visit) -> None:
    try_sample(visit, "phantom-brats", "sample.json")
    set_range(visit, "Level", 40)
    visit.page.get_by_label("Shown beneath").select_option("flair")
    visit.page.wait_for_url("**ground=3**")
    assert visit.page.get_by_label("Level").input_value() != "40"  # which was for another contrast
    visit.page.get_by_label("Plane").select_option("axial")
    visit.page.wait_for_url("**plane=axial**")
    flair = nibabel.as_closest_canonical(nibabel.load(SAMPLES["phantom-brats"] / "patient/flair.nii.gz"))
    volume = np.asarray(flair.dataobj)[::-1, ::-1, :].transpose(2, 1, 0)  # z, y, x: head, back, left
    level, width = (float(visit.page.get_by_label(name).input_value()) for name in ("Level", "Width"))
    set_range(visit, "segmentation", 0)
    slider = visit.page.get_by_role("slider", name="Slice")
    assert int(slider.get_attribute("max")) == len(volume)
    for index in (1, len(volume) // 2, len(volume)):
        slider.fill(str(index))
        assert np.abs(seen(visit, volume.shape[1:]) - grey(volume[index - 1], level, width)).max() <= 2
    slider.press("ArrowLeft")
    assert f"{len(volume) - 1} of {len(volume)}" in visit.page.locator(".controls").inner_text()
    visit.shoot("result-volume-light-1280")


# -- try: files of one's own -----------------------------------------------------------------------------------------


def test_a_file_of_ones_own(visit: Visit, tmp_path: Path) -> None:
    odd = tmp_path / "a <b>'&\" ü.png"
    shutil.copy(SAMPLES["digits-cnn"] / "digit-0901.png", odd)
    visit.open("/models/digits-cnn/try")
    visit.page.locator("input[type=file]").set_input_files(odd)
    visit.page.get_by_role("button", name="Predict").click()
    visit.page.wait_for_url("**/results/*")
    assert visit.page.locator("h1").inner_text() == odd.name
    wanted = max(expected("digits-cnn", "digit-0901.png", 0), key=lambda each: each["probability"])
    assert visit.page.locator(".bars .name").first.inner_text() == wanted["label"]
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="JSON").click()
    assert json.loads(Path(download.value.path()).read_bytes())["inputs"] == {"single": odd.name}


def test_several_files_are_dropped_at_once_and_each_finds_its_input(visit: Visit) -> None:
    visit.open("/models/phantom-brats/try")
    given = {f"patient-{key}.nii.gz": list((SAMPLES["phantom-brats"] / f"patient/{key}.nii.gz").read_bytes())
             for key in ("flair", "t1c", "t2", "t1")}  # fmt: skip
    visit.page.evaluate(
        """given => {
          const taken = new DataTransfer();
          for (const [name, bytes] of Object.entries(given)) {
            taken.items.add(new File([new Uint8Array(bytes)], name));
          }
          const drop = new DragEvent("drop", {dataTransfer: taken, bubbles: true, cancelable: true});
          document.querySelector(".drop").dispatchEvent(drop);
        }""",
        given,
    )
    names = visit.page.locator("input[type=file]").evaluate_all("all => all.map(each => each.files[0].name)")
    assert names == [f"patient-{key}.nii.gz" for key in ("t1", "t1c", "t2", "flair")]
    visit.page.get_by_role("button", name="Predict").click()
    visit.page.wait_for_url("**/results/*")
    mask = expected("phantom-brats", "sample.json", 0)
    counts = visit.page.locator(".output td:first-of-type").all_inner_texts()
    assert counts == [str((mask == label).sum()) for label in np.unique(mask)[1:]]
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="NIfTI").click()
    taken = nibabel.Nifti1Image.from_bytes(gzip.decompress(Path(download.value.path()).read_bytes()))
    source = nibabel.load(SAMPLES["phantom-brats"] / "patient/t1.nii.gz")
    assert np.allclose(taken.affine, source.affine, atol=1e-4) and taken.shape == source.shape
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="HDF5").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89HDF")


def test_a_wrong_file_is_refused_on_the_same_page(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    visit.open("/models/digits-cnn/try")
    visit.page.locator("input[type=file]").set_input_files(tmp_path / "a.png")
    visit.page.get_by_role("button", name="Predict").click()
    alert = visit.page.get_by_role("alert")
    alert.wait_for()
    assert "The model takes image/png, image/jpeg" in alert.inner_text()
    assert visit.page.get_by_role("button", name="Predict").is_visible()


def test_without_scripts_everything_is_there(enter: Enter) -> None:
    visit = enter(scripts=False)
    visit.page.get_by_label("Search").fill("lesion")
    visit.page.get_by_role("button", name="Search").click()
    visit.page.wait_for_url("**q=lesion**")
    visit.page.get_by_role("link", name="Try it").click()
    visit.page.locator("input[type=file]").set_input_files(SAMPLES["phantom-lesion"] / "slice-00.dcm")
    visit.page.get_by_role("button", name="Predict").click()
    visit.page.wait_for_url("**/results/*")
    set_range(visit, "mask", 0)
    set_range(visit, "outline", 0)
    visit.page.get_by_role("button", name="Show").click()
    visit.page.wait_for_url("**v0-o0=0**")
    shape = expected("phantom-lesion", "slice-00.dcm", 0).shape
    assert np.abs(seen_without_scripts(visit, shape) - grey(hounsfield("slice-00.dcm"), 40, 400)).max() <= 2
    visit.page.get_by_role("button", name="Bone").click()
    visit.page.wait_for_url("**preset=Bone**")
    assert "v0-preset=Bone" in visit.page.url and visit.page.get_by_label("Level").input_value() == "400"


def seen_without_scripts(visit: Visit, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Of the picture alone, since a page without scripts answers no questions on where it lies."""
    address = visit.page.locator(".stage image").first.get_attribute("href")
    picture = Image.open(io.BytesIO(visit.server.get(address).content)).convert("RGB")
    assert (picture.height, picture.width) == shape
    return np.asarray(picture).astype(np.int64)


# -- graph, runs, errors -----------------------------------------------------------------------------------------------


def test_the_graph_is_drawn_and_nobody_is_told(enter: Enter) -> None:
    """Years after Netron was made too, when it would ask for an update for ever."""
    visit = enter()
    visit.page.clock.install(time="2031-01-01")
    visit.open("/models/digits-cnn/graph")
    frame = visit.page.frame_locator("iframe")
    frame.get_by_text("Conv").first.wait_for()
    assert frame.get_by_text("MaxPool").first.is_visible()
    for word in ("update", "cookies", "Accept"):
        assert not frame.get_by_text(word).filter(visible=True).count()
    visit.shoot("graph-light-1280")
    assert any(url.split("?")[0].endswith("/data/model.onnx") for url in visit.went)


def test_a_run_is_followed_to_its_end(visit: Visit, jobs: Path, tmp_path: Path) -> None:
    for number, words in enumerate(("SLEEP 2 1", "SLEEP 2 2", "RAISE", "OK 3")):
        command = np.frombuffer(words.encode(), np.uint8)
        np.save(tmp_path / f"case-{number}.npy", command)
    submit = [sys.executable, "-m", "modelhub_hpc.cli", "submit", "--model", str(OBEDIENT), "--inputs", str(tmp_path),
              "--outdir", str(jobs / "followed"), "--runtime", "host", "--workers", "1"]  # fmt: skip
    run = subprocess.Popen(submit, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while visit.server.get("/jobs/followed").json().get("state") != "processing" and run.poll() is None:
            time.sleep(0.1)
        visit.open("/runs/followed")
        visit.page.locator(".state.succeeded, .state.failed").wait_for(timeout=60_000)
        numbers = visit.page.locator(".numbers").inner_text()
        assert numbers.startswith("3 of 4 done, 1 failed")
    finally:
        run.wait(60)
    assert f"{visit.server.url}/jobs/followed/events" in visit.went
    visit.page.locator(".failure").first.wait_for()
    visit.page.locator(".failure summary").first.click()
    assert "Traceback" in visit.page.locator(".failure pre").first.inner_text()
    visit.shoot("run-light-1280")
    report = "<p>Drawn by <b id=b>nobody</b><script>b.textContent = 'itself'</script>"
    (jobs / "followed/report.html").write_text(report)
    visit.page.reload()
    visit.page.get_by_role("link", name="Report").click()
    visit.page.get_by_text("Drawn by itself").wait_for()
    visit.open("/runs/followed")
    visit.page.get_by_role("navigation", name="Main").get_by_role("link", name="Runs").click()
    visit.page.get_by_role("link", name="followed").wait_for()
    visit.shoot("runs-light-1280")


def test_errors_say_what_to_do(enter: Enter, tmp_path: Path) -> None:
    stranger = enter(known=False)
    stranger.open("/models/digits-cnn")
    assert stranger.page.locator("h1").inner_text() == "Who are you?"
    assert "Open the address that" in stranger.page.locator("main").inner_text()
    visit = enter()
    visit.open("/models/none")
    assert visit.page.locator("h1").inner_text() == "Not here"
    (tmp_path / "large.png").write_bytes(bytes(2 << 20))
    visit.open("/models/digits-cnn/try")
    visit.page.locator("input[type=file]").set_input_files(tmp_path / "large.png")
    visit.page.get_by_role("button", name="Predict").click()
    visit.page.get_by_role("heading", name="Too large").wait_for()
    visit.shoot("error-light-1280")


def test_who_finds_everything_taken_is_told_to_come_again(visit: Visit, server: Endpoint) -> None:
    """There is room for one prediction of each model, and one more."""
    others = [threading.Thread(target=_sleep, args=(server, 3.0))]
    others += [threading.Thread(target=_sleep, args=(server, 0.2)) for _ in MODELS]
    visit.open("/models/digits-cnn/try")
    others[0].start()
    _until(server, 'busy{model="obedient"} 1.0')
    for each in others[1:]:
        each.start()
    _until(server, f'waiting{{model="obedient"}} {float(len(MODELS))}')
    visit.page.locator("button[value='digit-0898.png']").click()
    visit.page.get_by_role("heading", name="Busy").wait_for()
    assert "Wait a moment" in visit.page.locator("main").inner_text()
    for each in others:
        each.join()


def _sleep(server: Endpoint, seconds: float) -> None:
    command = io.BytesIO()
    np.save(command, np.frombuffer(f"SLEEP {seconds} 1".encode(), np.uint8))
    server.post("/models/obedient/try", files={"input-0": ("slow.npy", command.getvalue())})


def _until(server: Endpoint, said: str) -> None:
    deadline = time.monotonic() + 20
    while said not in server.get("/metrics").text:
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


# -- for everybody ----------------------------------------------------------------------------------------------------

PAGES = {
    "registry": "/?q=segmentation",
    "model": "/models/phantom-lesion",
    "published": "/models/vgg-19",
    "try": "/models/phantom-brats/try",
    "graph": "/models/phantom-lesion/graph",
    "runs": "/runs",
    "error": "/nowhere",
    "result": "",
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_pages_are_accessible_and_fit_the_screen(scheme: str, width: int, enter: Enter) -> None:
    from axe_playwright_python.sync_playwright import Axe

    visit, wrong = enter(width=width, scheme=scheme), dict[str, Any]()
    for name, path in PAGES.items():
        if path:
            visit.open(path)
        else:
            try_sample(visit, "phantom-lesion", "slice-01.dcm")
        visit.shoot(f"{name}-{scheme}-{width}")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, name
        report = Axe().run(visit.page, options={"iframes": False}).response
        broken = {each["id"]: each["nodes"][0]["html"][:200] for each in report["violations"]}
        wrong.update({name: broken} if broken else {})
    assert not wrong
