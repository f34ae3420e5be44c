"""Dockerfiles as definitions: by pairs of files, by what is refused, and by building them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
from builds import QUICKLY, apptainer, small
from click.testing import CliRunner
from grounds import REPO

from modelhub_hpc import dockerfiles
from modelhub_hpc.cli.output import Voice
from modelhub_hpc.cli.recipe import recipe
from modelhub_hpc.dockerfiles.instructions import NAMES as NAMES_OF_INSTRUCTIONS
from modelhub_hpc.errors import InvalidError, UsageError
from modelhub_hpc.images import Image

PAIRS = REPO / "tests/dockerfiles"
NAMES = sorted(path.stem for path in PAIRS.glob("*.docker"))

SECTIONS = {"%files", "%labels", "%post", "%environment", "%runscript"}
Build = Callable[..., Path]


@pytest.mark.parametrize("name", NAMES)
def test_pairs_of_files(name: str) -> None:
    """MH_TEST_UPDATE_GOLDEN=1 rewrites the definitions: look at the difference."""
    made = dockerfiles.convert((PAIRS / f"{name}.docker").read_bytes().decode())
    expected = PAIRS / f"{name}.def"
    if os.environ.get("MH_TEST_UPDATE_GOLDEN"):
        expected.write_text(made.definition, encoding="utf-8")
    assert made.definition == expected.read_text(encoding="utf-8")
    assert [f"line {note.line}, {note.name}:" in made.definition for note in made.notes].count(False) == 0


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        ("", "There is no FROM"),
        ("RUN true\nFROM x", "line 1: RUN: it comes before the first FROM"),
        ("FROM x\n\nFETCH y", "line 3: 'FETCH' is no instruction"),
        ("FROM x\nRUN", "line 2: RUN: it has no argument"),
        ("FROM x y", "line 1: FROM: 'x y' is not of the form"),
        ("FROM scratch\nCOPY a /", "line 1: FROM: an image from scratch has no shell"),
        (
            "FROM $BASE",
            "line 1: FROM: $BASE is not set in this Dockerfile. Give its value: --build-arg BASE=VALUE",
        ),
        ("FROM x\nWORKDIR $HOME/x", "line 2: WORKDIR: $HOME is not set"),
        ("FROM x\nENV A=1 B", "line 2: ENV: 'B' is not of the form NAME=VALUE"),
        ("FROM x\nENV A.b=1", "line 2: ENV: 'A.b' cannot be the name of a variable"),
        ("FROM x\nENV A=${B%.txt}", "line 2: ENV: '${B%.txt}' changes a variable in a way"),
        ("FROM x\nCOPY a", "line 2: COPY: it needs a source and a destination"),
        ("FROM x\nCOPY ../a /", "line 2: COPY: '../a' leads out of the build context"),
        ("FROM x\nCOPY --parents a /", "line 2: COPY: --parents has no counterpart"),
        ('FROM x\nCOPY ["a\\"b", "/"]', "line 2: COPY: Apptainer cannot copy a file with such a name"),
        ("FROM x\nADD git@host:a/b.git /", "line 2: ADD: 'git@host:a/b.git' is a git repository"),
        ("FROM x\nRUN --mount=type=secret,id=s cat /run/secrets/s", "line 2: RUN: --mount of type secret"),
        ("FROM x\nRUN <<EOF\nno end", "line 2: the here-document that begins here has no end"),
        ("FROM x\nRUN <<EOF\n %post\nEOF", "line 2: RUN: Apptainer would take '%post' for a word of its"),
        (
            "FROM x\nRUN <<EOF\nBootstrap: docker\nEOF",
            "line 2: RUN: Apptainer would take 'Bootstrap: docker'",
        ),
        ('FROM x\nENV A="{{ b }}"', "line 2: ENV: Apptainer would take '{{ b }}'"),
        ('FROM x\nCMD ["a", "b\\n%post\\nc"]', "Apptainer would take '%post'"),
        ("FROM x\nLABEL 'a b'=c", "line 2: LABEL: 'a b' cannot be the name of a label"),
        ("FROM x\nSHELL bash", "line 2: SHELL: it has only a JSON form"),
        ("# escape=^\nFROM x", "line 1: the escape character is"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_line(dockerfile: str, message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        dockerfiles.convert(dockerfile)
    assert message in str(caught.value)


_words = st.sampled_from(
    [
        *sorted(NAMES_OF_INSTRUCTIONS),
        "--from=0",
        "--mount=type=cache",
        "a",
        "/b/",
        "A=1",
        "$A",
        "${A:-b}",
        "${",
        "'",
        '"',
        "[",
        "]",
    ]
    + [
        "<<EOF",
        "EOF",
        "\\",
        "\n",
        "\n",
        " ",
        "\t",
        "#",
        "%post",
        "AS",
        "\x00",
        "\x0b",
        "é",
        "\udcff",
        "=",
        "`",
        "{{ a }}",
    ]
)


@hypothesis.given(st.lists(_words, max_size=30))
def test_any_text_is_converted_or_refused(words: list[str]) -> None:
    with contextlib.suppress(InvalidError):
        made = dockerfiles.convert("FROM x\n" + " ".join(words))
        sections = re.findall(r"^\s*(%\S*)", made.definition, re.MULTILINE)
        assert (
            sections.count("%post") == 1
            and set(sections) <= SECTIONS
            and not re.search(r"{{\s*\w+\s*}}", made.definition)
        )


def test_build_arguments_and_target() -> None:
    text = "ARG B\nFROM $B AS one\nARG V\nLABEL v=$V base=$FOREIGN\nFROM two\nRUN false"
    made = dockerfiles.convert(text, {"B": "debian:12", "V": "7", "FOREIGN": "f"}, "one")
    assert "From: debian:12" in made.definition and "false" not in made.definition
    assert "    'v 7' \\\n        'base f' \\\n" in made.definition
    with pytest.raises(InvalidError, match="There is no stage 'three'. There are: one, stage-1"):
        dockerfiles.convert(text, {"B": "x"}, "three")


def test_the_command(tmp_path: Path) -> None:
    file, output = tmp_path / "-a Dockerfile", tmp_path / "x.def"
    file.write_text("FROM x\nUSER me\n")
    (tmp_path / ".dockerignore").write_text("*.tmp\n")
    done = CliRunner().invoke(recipe, [str(file), "-o", str(output)], obj=Voice(), standalone_mode=False)
    assert done.return_value == 0 and output.read_text().startswith("# Made from a Dockerfile")
    assert "line 2, USER:" in done.output and ".dockerignore:" in done.output
    again = CliRunner().invoke(recipe, [str(file), "-o", str(output)], obj=Voice(), standalone_mode=False)
    assert isinstance(again.exception, UsageError) and "exists, and is left as it is" in str(again.exception)
    answer = CliRunner().invoke(recipe, [str(file), "--json"], obj=Voice(), standalone_mode=False)
    assert json.loads(answer.stdout)["notes"][0]["line"] == 2
    assert json.loads(answer.stdout)["definition"] == output.read_text()


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "cannot be read: No such file"),
        (b"FROM \xff", [], "is no UTF-8 text: invalid start byte at byte 5"),
        (b"FROM x\nNO\x1b[31m y", [], "line 2: 'NO\\x1b[31m'"),
        (b"FROM x", ["--build-arg", "NAME"], "--build-arg wants NAME=VALUE, not 'NAME'"),
    ],
)
def test_wrong_use_of_the_command(
    content: bytes | None, arguments: list[str], message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "Dockerfile").write_bytes(content)
    done = CliRunner().invoke(
        recipe, [str(tmp_path / "Dockerfile"), *arguments], obj=Voice(), standalone_mode=False
    )
    assert isinstance(done.exception, (UsageError, InvalidError)) and message in str(done.exception)


@pytest.fixture(scope="module")
def base(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(image.path, tmp_path_factory.getbasetemp() / "small")


@pytest.fixture
def build(base: Path, tmp_path: Path) -> Build:
    """Build a Dockerfile whose stages all start from the image `base`, in the folder context/; the SIF."""

    def made(dockerfile: str) -> Path:
        text = dockerfiles.convert(dockerfile).definition
        context = tmp_path / "context"
        context.mkdir(exist_ok=True)
        (tmp_path / "x.def").write_text(
            text.replace("Bootstrap: docker\nFrom: base\n", f"Bootstrap: localimage\nFrom: {base}\n")
        )
        apptainer("build", "--fakeroot", *QUICKLY, tmp_path / "x.sif", tmp_path / "x.def", cwd=context)
        return tmp_path / "x.sif"

    return made


def inside(sif: Path, command: str) -> str:
    return apptainer("exec", "--containall", "--cleanenv", sif, "sh", "-c", command)


@pytest.mark.apptainer
def test_folders_variables_and_files_come_out_right(build: Build, tmp_path: Path) -> None:
    context = tmp_path / "context"
    (context / "dir/sub").mkdir(parents=True)
    for name in ("a.txt", "b.txt", ".hidden", "with space", "dir/sub/deep", "dir/.dot"):
        (context / name).write_text(f"{name}\n")
    with tarfile.open(context / "files.tar.gz", "w:gz") as archive:
        archive.add(context / "a.txt", "unpacked/a.txt")
    sif = build(
        """
        FROM base
        ENV WHERE=/srv GREETING="hello  world" QUOTE='it"s' \\
            COSTS=\\$5
        ENV PATH=/opt/tools:$PATH
        WORKDIR $WHERE
        WORKDIR sub
        RUN cd / && export GREETING=lost && mkdir made && echo first > /made/order
        COPY a.txt /made/order
        RUN cat /made/order > copied-before && pwd > here && echo "$GREETING" > greeting
        RUN false; true
        COPY a.txt dir .hidden ["no json] target/
        COPY . /all
        COPY ["with space", "/with/a name"]
        ADD files.tar.gz /opt/
        COPY *.txt /opt/tools/
        RUN rm b.txt 2>/dev/null || echo absent > b-was
        COPY <<EOF /etc/from-here
        $WHERE and $COSTS
        EOF
        SHELL ["/bin/bash", "-o", "pipefail", "-c"]
        RUN if false | true; then exit 1; fi; [[ -n $BASH_VERSION ]]
        """.replace("\n        ", "\n").replace(' ["no json]', "")
    )
    assert inside(sif, "cd /srv/sub; cat copied-before here greeting b-was") == (
        "a.txt\n/srv/sub\nhello  world\nabsent\n"
    )
    assert inside(sif, 'echo "$WHERE,$GREETING,$QUOTE,$COSTS,$PATH"').startswith(
        '/srv,hello  world,it"s,$5,/opt/tools:/'
    )
    assert inside(sif, "cd /srv/sub/target; find . | sort") == (
        "./.dot\n./.hidden\n./a.txt\n./sub\n./sub/deep\n".join([".\n", ""])
    )
    assert inside(sif, "cd /all; ls -A | grep -c .") == f"{len(list(context.iterdir()))}\n"
    assert inside(sif, "cat '/with/a name' /opt/unpacked/a.txt /opt/tools/b.txt /etc/from-here") == (
        "with space\na.txt\nb.txt\n/srv and $5\n"
    )
    assert (
        inside(
            sif, "ls -d /.context /framework /contrib_src /output /working /temp /data /input 2>&1; true"
        ).count("\n")
        == 8
    )


@pytest.mark.apptainer
def test_users_permissions_and_the_start_command(build: Build, tmp_path: Path) -> None:
    sif = build(
        """FROM base
RUN echo 'app:x:1234:1234::/home/app:/bin/sh' >> /etc/passwd && mkdir -p -m 700 /home/app /root/weights
RUN echo secret > /root/weights/w && chmod 600 /root/weights/w && echo $HOME > /first
USER 1234:5
RUN echo $HOME > /second && mkdir ~/tools && echo mine > ~/tools/t && chmod 600 ~/tools/t
WORKDIR "/home/app/my work"
ENTRYPOINT ["printf", "%s\\n", "$HOME \\"it's\\""]
CMD ["from cmd", "two  words"]
"""
    )
    assert (
        inside(sif, "cat /first /second /root/weights/w /home/app/tools/t")
        == "/root\n/home/app\nsecret\nmine\n"
    )
    assert apptainer("run", "--containall", sif) == '$HOME "it\'s"\nfrom cmd\ntwo  words\n'
    assert apptainer("run", "--containall", sif, "a  b", "$c") == '$HOME "it\'s"\na  b\n$c\n'
    labels = json.loads(apptainer("inspect", "--json", "--labels", sif))["data"]["attributes"]["labels"]
    assert labels["org.modelhub-hpc.cwd"] == "/home/app/my work"


@pytest.mark.apptainer
def test_stages(build: Build, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/run.sh").write_text("#!/bin/sh\npwd\n")
    sif = build(
        """ARG NEXT=common
FROM base AS make
RUN mkdir -p /out/bin /elsewhere && echo tool > /out/bin/tool && ln -s tool /out/bin/link && ln -s /nowhere /out/far
FROM base
RUN false
FROM base AS common
WORKDIR /app
RUN echo common > inherited
FROM $NEXT
COPY --from=make /out/ /usr/local/
COPY --from=0 /out/bin/tool other
COPY --chmod=755 run.sh .
CMD ./run.sh; cat inherited other
"""
    )
    assert inside(sif, "cat /usr/local/bin/link; readlink /usr/local/bin/link /usr/local/far") == (
        "tool\ntool\n/nowhere\n"
    )
    assert apptainer("run", "--containall", sif) == "/app\ncommon\ntool\n"
