"""What users of ModelHub's own package type: each option becomes a command of mh-hpc, and does what it did."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from grounds import CACHE, IMAGE
from modelshop import FileServer, Shop
from registry_server import free_port
from runkit import Here, eventually, finish

from modelhub_hpc import cli, images
from modelhub_hpc.cli import modelhub_run
from modelhub_hpc.cli.modelhub_run import Asked, commands
from modelhub_hpc.config import SiteConfig

SITE = SiteConfig(cache_dir=CACHE)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with FileServer() as server:
        made = Shop(tmp_path, server)
        made.publish()
        yield made


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Asked("digits-cnn", expert=True), ["sandbox", "--", "digits-cnn"]),
        (Asked("digits-cnn", expert=True, jupyterport=9000), ["sandbox", "--port", "9000", "--", "digits-cnn"]),
        (Asked("digits-cnn", bash=True, gpu=True), ["shell", "--gpu", "on", "--", "digits-cnn"]),
        (Asked("digits-cnn", bash=True, mountdata=Path("/a b")), ["shell", "--data", "/a b", "--", "digits-cnn"]),
    ],
)
def test_a_model_that_is_here(image: images.Image, asked: Asked, expected: list[str]) -> None:
    assert list(commands(asked, SITE)) == [expected]


def test_the_http_interface_gets_the_interpreter_of_the_image(image: images.Image) -> None:
    [words] = commands(Asked("digits-cnn", apiport=81), SITE)
    serve = [image.interpreter, "/framework/start.py", "serve", "--port", "81"]
    assert words == ["shell", "--allow-network", "digits-cnn", "--", *serve]
    assert next(iter(commands(Asked("digits-cnn"), SITE)))[-1] == "8080"


def test_what_is_not_here_is_fetched_first(shop: Shop) -> None:
    site = SiteConfig(cache_dir=shop.cache)
    asked = commands(Asked("toy", bash=True), site)
    assert next(asked) == ["pull", "--", "toy"]
    shop.pull()
    assert next(asked) == ["pull", "--", "toy"]  # again, since the image was left
    own = commands(Asked(str(shop.source.folder), bash=True), site)
    assert next(own) == ["convert", f"docker://{IMAGE}"]


def test_again(shop: Shop, image: images.Image) -> None:
    shop.pull()
    site = SiteConfig(cache_dir=shop.cache, library_dirs=(image.path.parent,))
    told = list(commands(Asked("toy", update=True, updatedocker=True, bash=True), site))
    assert told == [["pull", "--again", "--", "toy"], ["images", "rm", "--", IMAGE], ["shell", "--", "toy"]]


def test_the_commands_run_and_their_failures_are_its_own(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop.folder)
    monkeypatch.setenv("MH_HPC_CACHE_DIR", str(shop.cache))
    assert modelhub_run.main(["-l"]) == 0
    told = capsys.readouterr()
    assert "toy " in told.out and "this is now  mh-hpc models" in told.err
    assert modelhub_run.main(["no-such-model"]) == 4
    told = capsys.readouterr()
    assert "this is now  mh-hpc pull -- no-such-model" in told.err and "No registry has a model" in told.err


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "Name a model"), (["-e", "-b", "x"], "exclude each other"), (["-mf", "x", "y"], "-mf has no place here")],
)
def test_what_makes_no_sense(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["modelhub-run", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.apptainer
def test_the_http_interface_answers(image: images.Image, tmp_path: Path) -> None:
    port = free_port()
    serving = Here(tmp_path).start("modelhub-run", "digits-cnn", "-ap", port)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/get_config", timeout=5) as found:
                return bool(json.load(found)["meta"]["name"] == "digits-cnn")
        except OSError:
            return serving.poll() is not None

    assert eventually(answers, 60.0)
    os.killpg(serving.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    ended = finish(serving, 20)
    assert ended.code == 0 and "is served at" in ended.text, ended.text
