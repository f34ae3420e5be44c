"""Shell text of a definition's %post: what Docker does beside running commands, and what every ModelHub image needs."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from modelhub_hpc.dockerfiles.instructions import Instruction
from modelhub_hpc.errors import InvalidError

# where %files puts what COPY and ADD name, until their turn comes
CONTEXT = "/.context"

_COPY = f"""\
# docker_copy {CONTEXT}/N DESTINATION: as COPY does, of a folder its contents, a file by its name or the name given
docker_copy() (
    for each in "$1"/* "$1"/.[!.]*; do
        if [ -d "$each" ] && [ ! -L "$each" ]; then
            mkdir -p "$2" && cp -a "$each/." "$2"
        elif [ -e "$each" ] || [ -L "$each" ]; then
            case $2 in */) mkdir -p "$2" ;; *) mkdir -p "$(dirname "$2")" ;; esac
            cp -a "$each" "$2"
        fi
    done
    rm -r "$1"
)"""
_EXTRACT = f"""\
# docker_extract {CONTEXT}/N FOLDER: as ADD does with archives
docker_extract() (
    mkdir -p "$2"
    for each in "$1"/*; do tar -xf "$each" -C "$2"; done
    rm -r "$1"
)"""
_DOWNLOAD = """\
# docker_download URL DESTINATION [SHA256]: as ADD does with addresses; needs curl or wget in the image
docker_download() (
    case $2 in */) file=$2${1##*/} ;; *) file=$2 ;; esac
    mkdir -p "$(dirname "$file")"
    if command -v curl >/dev/null; then curl -fsSL -o "$file" "$1"; else wget -q -O "$file" "$1"; fi
    [ -z "$3" ] || printf '%s  %s\\n' "$3" "$file" | sha256sum -c -
)"""
FUNCTIONS = {"docker_copy": _COPY, "docker_extract": _EXTRACT, "docker_download": _DOWNLOAD}

# In a SIF every file belongs to root, and whoever runs it is somebody else. What is mounted while the image is
# made (/proc, the host's /tmp, what --bind names) is left alone.
READABLE = """\
# for whoever runs the image, who is never root: folders to mount on, and leave to read everything
mkdir -p /framework /contrib_src /output /working /temp /data /input
set -- -path /proc
for mounted in $(awk '$5 != "/" { print $5 }' /proc/self/mountinfo); do set -- "$@" -o -path "$mounted"; done
find / \\( "$@" \\) -prune -o \\( -type d ! -perm -005 -o -type f ! -perm -004 \\) -exec chmod a+rX {} +"""


# what Apptainer would take for its own: the begin of a section, of a stage, a build argument
_FOREIGN = re.compile(r"^[ \t]*%.*|^bootstrap\s*:.*|\{\{\s*\w+\s*\}\}", re.MULTILINE | re.IGNORECASE)


def labels(pairs: Mapping[str, str]) -> str:
    """The labels of the image; a section %labels would give way to those of the base image, as LABEL does not."""
    lines = " \\\n".join(f"    {shlex.quote(f'{name} {value}')}" for name, value in pairs.items())
    return f"printf '%s\\n' \\\n{lines} >> \"$APPTAINER_LABELS\""


def refuse_foreign_words(texts: Iterable[str]) -> None:
    """Raise InvalidError for text that would mean something else in a definition than in the Dockerfile."""
    for text in texts:
        if match := _FOREIGN.search(text):
            raise InvalidError(
                f"Apptainer would take '{match[0].strip()}' for a word of its definitions.\n"
                "Put that text into a file of the build context, and COPY it."
            )


def home_of(user: str) -> str:
    """Shell text that sets HOME as Docker does for a RUN after USER."""
    look_up = (
        f"awk -F: -v user={shlex.quote(user)} '$1 == user || $3 == user {{ print $6; exit }}' /etc/passwd"
    )
    return f'HOME=$({look_up}); export HOME="${{HOME:-/}}"'


def run(each: Instruction, shell: Sequence[str]) -> str:
    """Shell text that runs one RUN.

    In a shell of its own: what it does to folder, variables and options ends with it. Only its own exit code counts,
    as in Docker, where the shell goes on after a command that fails.
    """
    words = each.words_of_json()
    if words:
        return _subshell(shlex.join(words))
    text = _command(each)
    if shell:
        return _subshell(shlex.join([*shell, text]), indent=not each.heredocs)
    # without a semicolon or a line feed there is no second command that Docker would still have run
    goes_on = ";" in text or each.heredocs
    return _subshell(f"set +e\n{text}" if goes_on else text, indent=not each.heredocs)


def _subshell(text: str, indent: bool = True) -> str:
    return f"(\n{textwrap.indent(text, '    ') if indent else text}\n)"


def _command(each: Instruction) -> str:
    """The command and its here-documents; of `RUN <<END` the body is the command."""
    if len(each.heredocs) == 1 and re.fullmatch(r"""<<-?(["']?)[\w.]+\1""", each.text):
        return each.heredocs[0].body.rstrip("\n")
    return "\n".join([_pretty(each), *(f"{heredoc.body}{heredoc.end}" for heredoc in each.heredocs)])


def _pretty(each: Instruction) -> str:
    """The command, on several lines where the Dockerfile has several and a shell reads that the same."""
    text = ""
    for line in each.lines:
        apart = text[-1:].isspace() or line[:1].isspace()
        text = (
            f"{text.rstrip()} \\\n    {line.strip()}"
            if text.strip() and apart and _may_break(text)
            else text + line
        )
    return text.strip()


def _may_break(text: str) -> bool:
    """Whether a backslash and a line feed after this text mean nothing: outside of quotes and comments."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return "#" not in text
