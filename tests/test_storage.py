"""Disks that are full, read-only or failing, and file systems without hard links: real where possible."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shardkit import CHUNKS, HERE, PLAN, PRELUDE, RUN, files, paths, ran

from modelhub_hpc.record import read_shard, scan

__all__ = ["paths"]


def in_small_disk(script: str, folder: Path, options: str = "size=1m") -> str:
    """Run a script with a small file system of its own mounted on a folder."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make user namespaces: unshare -rm mount -t tmpfs fails")
    mount = f'mount -t tmpfs -o {options} none "$1" && exec "$2" -c "$3" "$1/run"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", folder, sys.executable, PRELUDE + script],
        cwd=HERE.parent,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


FILL = """
paths.create()
assert write(0, 0, 1)
for size in {sizes}:
    shard = ShardWriter(paths, "%s", "%s", 1)
    try:
        with shard:
            for i in range(1, 2000):
                {add}
            shard.publish()
        raise AssertionError("it fitted")
    except TryAgainError as error:
        text = str(error)
    assert "No space left on device: " in text and "MB free" in text and "same command" in text, text
    assert not [name for name in os.listdir("/proc/self/fd")
                if "/run/" in os.path.realpath(f"/proc/self/fd/{{name}}")]
    assert len(os.listdir(paths.shards)) == 2, os.listdir(paths.shards)
    assert write(2, 5, 4), "the space is free again"
    os.unlink(paths.shard(2))
    sweep_orphans(paths)
assert len(read_shard(paths.shard(0), "%s", "%s").results) == 1
print("survived", end="")
""" % (RUN, PLAN, RUN, PLAN)


@pytest.mark.parametrize(
    "sizes, add",
    [
        (
            "(10, 1000, 5000, 40_000, 5_000_000)",
            "shard.add(result(i), {'m': ArrayOutput(np.random.rand(size), 'custom')})",
        ),
        ("(1, 500)", "shard.add(result(i, list(range(size + 200))))"),
    ],
    ids=["arrays", "lines"],
)
def test_a_full_disk_stops_the_run_and_spoils_nothing(tmp_path, sizes, add):
    assert in_small_disk(FILL.format(sizes=sizes, add=add), tmp_path) == "survived"


def test_a_full_disk_while_publishing_small_files(tmp_path):
    assert (
        in_small_disk(
            """
paths.create()
for publish in (publish_json, replace_json):
    try:
        publish(paths.record_json, "x" * 2_000_000)
        raise AssertionError("it fitted")
    except TryAgainError as error:
        assert "No space left" in str(error), error
assert sorted(p.name for p in paths.root.iterdir()) == [".mh-hpc", "logs", "quarantine", "shards"]
print("survived", end="")
""",
            tmp_path,
        )
        == "survived"
    )


def test_a_read_only_disk_is_named(tmp_path):
    assert (
        in_small_disk(
            """
try:
    paths.create()
except UnfitError as error:
    print(error, end="")
""",
            tmp_path,
            "size=1m,ro",
        )
        == f"{tmp_path}/run cannot be written: Read-only file system"
    )


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build tests/shim.c with")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    build = ["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(HERE / "shim.c"), "-ldl"]
    subprocess.run(build, check=True)
    return str(library)


TWICE = """
print(write(1, 1, 4), write(1, 1, 4), publish_text(paths.run_json, "a"), len(os.listdir(paths.shards)))
"""


@pytest.mark.parametrize("mode", ["unsupported", "lost"])
def test_without_hard_links_and_with_lost_answers_the_first_still_wins(paths, shim, mode):
    assert ran(TWICE, paths.root, LD_PRELOAD=shim, SHIM_LINK=mode).strip() == "True False True 2"
    assert len(read_shard(paths.shard(1), RUN, PLAN).results) == 4


def test_a_file_system_without_exclusive_names_is_refused(paths, shim):
    script = "try:\n    write(1, 1, 4)\nexcept UnfitError as error:\n    print(error)"
    text = ran(script, paths.root, LD_PRELOAD=shim, SHIM_LINK="unsupported", SHIM_RENAME="unsupported")
    find = ["findmnt", "-n", "-o", "FSTYPE", "-T", str(paths.root.parent)]
    kind = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    assert "neither hard links nor exclusive renames" in text and "--outdir" in text
    assert f"is on a file system ({kind})" in text
    assert files(paths) == set()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_failing_disk_is_no_result(paths, shim, nth):
    """The arrays, the lines and the folder are synced, in this order."""
    script = "try:\n    write(1, 1, 4)\nexcept TryAgainError as error:\n    print(error)"
    text = ran(script, paths.root, LD_PRELOAD=shim, SHIM_FSYNC=str(nth))
    assert text.startswith("Input/output error: ")
    # Once the name is given, the arrays it speaks of must stay, whatever the folder's sync says.
    assert len(files(paths)) == (2 if nth == 3 else 0)
    assert scan(paths, RUN, PLAN, CHUNKS).done_chunks == ({1} if nth == 3 else frozenset())
