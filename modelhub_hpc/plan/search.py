"""Look through folders, patterns, tables and files for what a model takes."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.inputs import accepts, extension, identity_or_zero
from modelhub_hpc.plan.grouping import File, Grouped, Skipped, cases_of_files, natural, relative
from modelhub_hpc.plan.tables import Draft, read_csv, read_json
from modelhub_hpc.contribution import Contribution


@dataclass
class Search:
    """What has been found so far."""

    model: Contribution
    drafts: list[Draft] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)  # files by extension
    _known: set[tuple[tuple[str, str], ...]] = field(default_factory=set)

    def add(self, named: str) -> None:
        """Take in a path or a pattern; InvalidError where there is no such thing."""
        if os.path.lexists(named):
            path = os.path.normpath(named)
            self._add_path(path, path if os.path.isdir(path) else os.path.dirname(path))
            return
        if not glob.has_magic(named):
            raise InvalidError(f"{shown(named)}: no such file or folder.")
        base = _literal_base(named)
        if "**" in named.split("/"):
            self._add_files(self._matching(base, named), base)
            return
        matches = sorted(glob.glob(named), key=natural)
        if not matches:
            self.skipped.append(Skipped(named, "the pattern matches nothing"))
        for path in matches:
            self._add_path(os.path.normpath(path), base)

    def _add_path(self, path: str, base: str) -> None:
        if os.path.isdir(path):
            self._add_files(self._list(path), base)
        elif extension(path) in (".csv", ".tsv"):
            self.drafts += read_csv(path, self.model)
        elif extension(path) == ".json":
            self.drafts += read_json(path, self.model)
        else:
            self.seen[extension(path)] += 1
            takes = any(accepts(spec, path) for spec in self.model.inputs)
            files = [File(path, *identity_or_zero(path))] if takes else []
            self._report({extension(path): 1} if not takes else {}, path)
            self._add_files(files, base)

    def _matching(self, base: str, pattern: str) -> list[File]:
        parts = relative(os.path.normpath(pattern), base).split("/")
        return [file for file in self._list(base) if _matches(relative(file.path, base).split("/"), parts)]

    def _list(self, root: str) -> list[File]:
        """The files under `root` that some input of the model takes, in natural order."""
        files, refused = [], Counter[str]()
        for entry in self._walk(root):
            ext = extension(entry.name)
            self.seen[ext] += 1
            if any(accepts(spec, entry.path) for spec in self.model.inputs):
                files.append(_stat(entry))
            else:
                refused[ext] += 1
        self._report(refused, root)
        return sorted(files, key=lambda file: natural(file.path))

    def _report(self, refused: Mapping[str, int], path: str) -> None:
        for ext, count in sorted(refused.items()):
            name = f"named *{ext}" if ext else "without extension"
            what = "1 file" if count == 1 else f"{count} files"
            self.skipped.append(Skipped(path, f"{what} {name}: not a format that {self.model.name} takes"))

    def _walk(self, root: str) -> Iterator[os.DirEntry[str]]:
        stack, visited = [root], set()
        while stack:
            folder = stack.pop()
            try:
                info = os.stat(folder)
                with os.scandir(folder) as listing:
                    entries = [entry for entry in listing if not entry.name.startswith(".")]
            except OSError as error:
                self.skipped.append(Skipped(folder, f"folder not readable: {error.strerror}"))
                continue
            if (info.st_dev, info.st_ino) in visited:
                continue  # a bind mount of a folder into itself
            visited.add((info.st_dev, info.st_ino))
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    self.skipped.append(Skipped(entry.path, "a link to a folder, not followed; name it itself"))
                else:
                    yield entry

    def _add_files(self, files: list[File], base: str) -> None:
        grouped: Grouped = cases_of_files(files, base, self.model)
        self.skipped += grouped.skipped
        for draft in grouped.drafts:
            identity = (*draft.inputs, *draft.columns)
            if identity not in self._known:  # the same file, named by a folder and a pattern
                self._known.add(identity)
                self.drafts.append(draft)

    def nothing(self, inputs: Sequence[str]) -> str:
        """The message for an empty search: what was looked for, where, and what lay there instead."""
        formats = sorted({name for spec in self.model.inputs for name in spec.formats}) or ["any known image"]
        top = self.seen.most_common(5)
        kinds = ", ".join(f"{count} {ext or 'without extension'}" for ext, count in top)
        where = ", ".join(shown(each) for each in inputs[:5]) + (" ..." if len(inputs) > 5 else "")
        lines = [
            f"No case found for {self.model.name}.",
            f"Looked for: {', '.join(formats)}",
            f"In: {where}",
            f"Files seen: {self.seen.total()}" + (f" ({kinds})" if kinds else ""),
        ]
        if len(self.model.inputs) > 1:
            keys = ", ".join(spec.key for spec in self.model.inputs)
            lines.append(f"Each case needs {keys}: a folder per case with files so named, a CSV or a JSON.")
        lines += [f"Skipped {shown(each.path)}: {each.reason}" for each in self.skipped[:3]]
        return "\n".join(lines)


def _stat(entry: os.DirEntry[str]) -> File:
    try:
        info = entry.stat()
    except OSError:
        return File(entry.path, 0, 0)  # a dangling link, or deleted since: it fails when its turn comes
    return File(entry.path, info.st_size, info.st_mtime_ns)


def _literal_base(pattern: str) -> str:
    """The folder above the first part that holds a wildcard."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return os.path.normpath("/".join(parts[:first]) or "/")


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether the parts of a path match those of a pattern, where ** stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1)) or pattern == ["**"]
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
