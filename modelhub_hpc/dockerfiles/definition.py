"""From the instructions of a stage to its part of an Apptainer definition."""

from __future__ import annotations

import posixpath
import re
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence

from modelhub_hpc.dockerfiles import post
from modelhub_hpc.dockerfiles.instructions import Heredoc, Instruction
from modelhub_hpc.dockerfiles.parts import LEFT_OUT, Note, Part, about_run_flag, about_unknown
from modelhub_hpc.dockerfiles.stages import Stage, arguments, source
from modelhub_hpc.dockerfiles.variables import (
    Value,
    evaluate,
    for_shell,
    split,
    substituted,
    text_of,
    unknown,
)
from modelhub_hpc.errors import InvalidError

_ARCHIVE = re.compile(r"\.(tar|tar\.\w+|tgz|tbz2?|txz)$")
_ADDRESS = re.compile(r"(https?|ftp)://")
_REPOSITORY = re.compile(r"git@|.*\.git(#|$)")
_NEVER_OF_THE_CALLER = frozenset({"PATH"})
_SHELL = ("/bin/sh", "-c")


def part_of(stage: Stage, stages: Sequence[Stage], build_args: Mapping[str, str]) -> Part:
    """Go through the instructions of a stage. Raises InvalidError with the line of one that cannot be said."""
    made = _Reader(stage, stages, build_args)
    for each in stage.instructions:
        made.read(each)
    return made.part


class _Reader:
    """Reads instruction after instruction and keeps what holds at its place: folder, variables, user, shell."""

    def __init__(self, stage: Stage, stages: Sequence[Stage], build_args: Mapping[str, str]) -> None:
        self.part = Part(stage)
        self._stages = stages
        self._build_args = build_args
        self._variables: dict[str, Value] = {name: (text,) for name, text in build_args.items() if text}
        self._user = self._home_is_of = "root"
        self._shell: tuple[str, ...] = ()
        self._functions: set[str] = set()
        self._staged = 0

    def read(self, each: Instruction) -> None:
        readers: dict[str, Callable[[Instruction], None]] = {
            "ADD": self._add,
            "ARG": self._arg,
            "CMD": self._cmd,
            "COPY": self._copy,
            "ENTRYPOINT": self._entrypoint,
            "ENV": self._env,
            "LABEL": self._label,
            "MAINTAINER": self._maintainer,
            "RUN": self._run,
            "SHELL": self._set_shell,
            "USER": self._set_user,
            "VOLUME": self._volume,
            "WORKDIR": self._workdir,
        }
        before = len(self.part.post)
        try:
            readers.get(each.name, self._leave_out)(each)
            post.refuse_foreign_words(self.part.post[before:])
        except InvalidError as error:
            raise error if str(error).startswith("line ") else each.error(str(error)) from None

    # variables

    def _arg(self, each: Instruction) -> None:
        given = arguments(each, {**self.part.stage.globals, **self._variables}, self._build_args)
        for word in split(each.text):
            name = word.partition("=")[0]
            value = given.get(name, self.part.stage.globals.get(name))
            if name in self.part.environment:
                continue  # ENV wins over ARG
            if value is None:
                self._note(each, f"{name} has no value and is empty here. Give one: --build-arg {name}=VALUE")
                self._variables[name] = ()
            else:
                self._set(name, value, value)

    def _env(self, each: Instruction) -> None:
        known = dict(self._variables)  # an ENV does not see its own assignments
        # what takes in a variable of the base image finds the value so far in the shell of %post
        fixed = {name: value for name, value in known.items() if not unknown(value)}
        values = [(name, evaluate(raw, known), evaluate(raw, fixed)) for name, raw in self._pairs(each)]
        # so that a shell does not see them either
        for name, value, in_post in sorted(values, key=lambda found: not unknown(found[1])):
            self._set(name, value, in_post)
            self.part.environment.pop(name, None)
            self.part.environment[name] = value
            for other in sorted(set(unknown(value)) - _NEVER_OF_THE_CALLER):
                self._note(each, about_unknown(name, other))

    def _set(self, name: str, value: Value, in_post: Value) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise InvalidError(f"'{name}' cannot be the name of a variable.")
        self._variables[name] = value
        self._say(f"export {name}={for_shell(in_post)}")

    def _pairs(self, each: Instruction) -> list[tuple[str, str]]:
        """NAME=VALUE ..., or the old form NAME VALUE, with the values still in quotes."""
        words = split(each.text)
        if "=" not in words[0]:
            name, _, value = each.text.partition(" ")
            return [(name, value.strip())]
        if strange := next((word for word in words if "=" not in word), None):
            raise InvalidError(f"'{strange}' is not of the form NAME=VALUE.")
        return [(name, value) for name, _, value in (word.partition("=") for word in words)]

    def _text(self, raw: str) -> str:
        return text_of(evaluate(raw, self._variables))

    def _words(self, each: Instruction) -> list[str]:
        """The words of an instruction that has a JSON form and a plain one."""
        words = each.words_of_json()
        if words is None:
            return [self._text(word) for word in split(each.text)]
        return [substituted(word, self._variables) for word in words]

    # files

    def _copy(self, each: Instruction) -> None:
        flags = self._flags(each, {"chown", "chmod", "link", "from"})
        *sources, target = self._words_of_files(each)
        stage = source(each, self._stages, self.part.stage)
        self._place("docker_copy", sources, target, flags.get("chmod", ""), stage)

    def _add(self, each: Instruction) -> None:
        flags = self._flags(each, {"chown", "chmod", "link", "checksum"})
        *sources, target = self._words_of_files(each)
        addresses = [name for name in sources if _ADDRESS.match(name)]
        archives = [name for name in sources if name not in addresses and _ARCHIVE.search(name)]
        if strange := next((name for name in sources if _REPOSITORY.match(name)), None):
            raise InvalidError(
                f"'{strange}' is a git repository. Clone it into the build context and COPY it."
            )
        others = [name for name in sources if name not in {*addresses, *archives}]
        self._place("docker_copy", others, target, flags.get("chmod", ""))
        self._place("docker_extract", archives, target, "")
        for address in addresses:
            checksum = flags.get("checksum", "").removeprefix("sha256:")
            self._call("docker_download", shlex.join([address, target, checksum]))

    def _flags(self, each: Instruction, allowed: set[str]) -> dict[str, str]:
        flags = dict(each.flags)
        if strange := sorted(set(flags) - allowed):
            raise InvalidError(f"--{strange[0]} has no counterpart in Apptainer. Write it without.")
        if "chown" in flags:
            self._note(
                each, "--chown is left out: in a SIF all files belong to root, and anybody may read them."
            )
        return flags

    def _words_of_files(self, each: Instruction) -> list[str]:
        """Sources and target; here-documents among the sources are written at once and left out."""
        words = self._words(each)
        if len(words) < 2:
            raise InvalidError("it needs a source and a destination.")
        bodies = {heredoc.end for heredoc in each.heredocs}
        kept = [word for word in words[:-1] if not (word.startswith("<<") and word.lstrip("<-") in bodies)]
        for heredoc in each.heredocs:
            self._write(heredoc, words[-1])
        return [*kept, words[-1]]

    def _write(self, heredoc: Heredoc, target: str) -> None:
        path = posixpath.join(target, heredoc.end) if target.endswith("/") else target
        body = heredoc.body if heredoc.literal else substituted(heredoc.body, self._variables)
        self._say(f"mkdir -p {shlex.quote(posixpath.dirname(path) or '.')}")
        self.part.post.append(f"cat >{shlex.quote(path)} <<'{heredoc.end}'\n{body}{heredoc.end}")

    def _place(
        self, how: str, sources: list[str], target: str, mode: str, stage: Stage | None = None
    ) -> None:
        if not sources:
            return
        self._staged += 1
        folder = f"{post.CONTEXT}/{self._staged}"
        pairs = [_staged_pair(name, folder, stage) for name in sources]
        (self.part.files_from.setdefault(stage.name, []) if stage else self.part.files).extend(pairs)
        if mode:
            self._say(f"chmod -R {shlex.quote(mode)} {folder}")
        self._call(how, f"{folder} {shlex.quote(target)}")

    def _call(self, function: str, arguments: str) -> None:
        if function not in self._functions:
            self.part.post.insert(len(self._functions), textwrap.indent(post.FUNCTIONS[function], "    "))
            self._functions.add(function)
        self._say(f"{function} {arguments}")

    # commands

    def _run(self, each: Instruction) -> None:
        for name, value in each.flags:
            self._note(each, about_run_flag(name, value))
        if self._user != self._home_is_of and "HOME" not in self.part.environment:
            self._say(post.home_of(self._user))
            self._home_is_of = self._user
        text = post.run(each, self._shell)
        self.part.post.append(text if each.heredocs else textwrap.indent(text, "    "))

    def _workdir(self, each: Instruction) -> None:
        folder = self._text(each.text)
        if not folder.startswith("/") and not self.part.workdir:
            self._note(
                each, f"'{folder}' is taken to lie below /, since the WORKDIR of the base image is not known."
            )
        self.part.workdir = posixpath.normpath(posixpath.join(self.part.workdir or "/", folder))
        quoted = shlex.quote(self.part.workdir)
        self._say(f"mkdir -p {quoted}\ncd {quoted}")

    def _set_shell(self, each: Instruction) -> None:
        self._shell = tuple(each.words_of_json() or ())
        if not self._shell:
            raise InvalidError("it has only a JSON form.")

    def _set_user(self, each: Instruction) -> None:
        user = self._text(each.text).partition(":")[0]
        self._user = "root" if user == "0" else user
        if self._user != "root":
            self._note(
                each,
                f"commands after it run as root with the HOME of {user}; containers run as whoever starts them.",
            )

    def _entrypoint(self, each: Instruction) -> None:
        self.part.accepts_arguments = each.words_of_json() is not None
        self.part.entrypoint = self._argv(each)
        self.part.command = None  # ENTRYPOINT forgets the CMD of the base image and an earlier one

    def _cmd(self, each: Instruction) -> None:
        self.part.command = self._argv(each)

    def _argv(self, each: Instruction) -> tuple[str, ...]:
        words = each.words_of_json()
        return tuple(words) if words is not None else (*(self._shell or _SHELL), each.text)

    # the rest

    def _label(self, each: Instruction) -> None:
        for name, raw in self._pairs(each):
            value = self._text(raw)
            if len(value.splitlines()) > 1:
                self._note(each, f"the lines of {name} become one.")
            key = self._text(name)
            if not key or key != "".join(key.split()):
                raise InvalidError(f"'{key}' cannot be the name of a label in Apptainer.")
            self.part.labels[key] = " ".join(value.split("\n")).strip()

    def _maintainer(self, each: Instruction) -> None:
        self.part.labels["maintainer"] = each.text

    def _volume(self, each: Instruction) -> None:
        folders = self._words(each)
        self._say(f"mkdir -p {shlex.join(folders)}")
        self._note(
            each,
            f"{' '.join(folders)} can be read only; to write there, bind a folder: --bind DIR:{folders[0]}",
        )

    def _leave_out(self, each: Instruction) -> None:
        self._note(each, LEFT_OUT[each.name])

    def _say(self, text: str) -> None:
        self.part.post.append(textwrap.indent(text, "    "))

    def _note(self, each: Instruction, message: str) -> None:
        self.part.notes.append(Note(each.line, each.name, message))


def _staged_pair(name: str, folder: str, stage: Stage | None) -> tuple[str, str]:
    """A line of %files. A folder is staged under its name, and what has no name, the context itself, under one."""
    path = posixpath.normpath("/" + name.lstrip("/"))
    if ".." in name.split("/"):
        raise InvalidError(f"'{name}' leads out of the build context.")
    if '"' in name or "\n" in name:
        raise InvalidError(f"Apptainer cannot copy a file with such a name: {name!r}. Rename it.")
    inside = path if stage else path.lstrip("/") or "."
    target = f"{folder}/" if path != "/" else f"{folder}/all/"
    return (f'"{inside}"' if " " in inside else inside, target)
