"""Look through folders, patterns, tables and files for what a model takes."""

from __future__ import annotations

import glob
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain

from modelhub_hpc.errors import InvalidError, shown
from modelhub_hpc.inputs import accepts, extension, identity_or_zero
from modelhub_hpc.plan.grouping import Files, Skipped, cases_of_files, in_order, relative
from modelhub_hpc.plan.lazy import Mapped, alike
from modelhub_hpc.plan.tables import Draft, Drafts, read_csv, read_json
from modelhub_hpc.contribution import Contribution


@dataclass
class Search:
    """What has been found so far."""

    model: Contribution
    drafts: Drafts = field(default_factory=Drafts)
    skipped: list[Skipped] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)  # files by extension
    _listings: list[range] = field(default_factory=list)  # the drafts of each folder, pattern or file

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
            parts = relative(os.path.normpath(named), base).split("/")
            self._add_files(self._list(base, lambda path: _matches(relative(path, base).split("/"), parts)), base)
            return
        matches = in_order(glob.glob(named))
        if not matches:
            self.skipped.append(Skipped(named, "the pattern matches nothing"))
        for path in matches:
            self._add_path(os.path.normpath(path), base)

    def _add_path(self, path: str, base: str) -> None:
        if os.path.isdir(path):
            self._add_files(self._list(path), base)
        elif extension(path) in (".csv", ".tsv"):
            self._take(read_csv(path, self.model))
        elif extension(path) == ".json":
            self._take(read_json(path, self.model))
        else:
            self.seen[extension(path)] += 1
            takes = any(accepts(spec, path) for spec in self.model.inputs)
            files = Files(os.path.dirname(path))
            if takes:
                files.add(path, *identity_or_zero(path))
            self._report({extension(path): 1} if not takes else {}, path)
            self._add_files(files, base)

    def _list(self, root: str, wanted: Callable[[str], bool] = lambda path: True) -> Files:
        """The files under `root` that some input of the model takes and that are wanted, in natural order."""
        files, refused = Files(root), Counter[str]()
        for entry in self._walk(root):
            ext = extension(entry.name)
            self.seen[ext] += 1
            if not any(accepts(spec, entry.path) for spec in self.model.inputs):
                refused[ext] += 1
            elif wanted(entry.path):
                files.add(entry.path, *_identity(entry))
        self._report(refused, root)
        files.sort()
        return files

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
                if (info.st_dev, info.st_ino) in visited:
                    continue  # a bind mount of a folder into itself
                visited.add((info.st_dev, info.st_ino))
                with os.scandir(folder) as listing:
                    yield from self._files_of(listing, stack)
            except OSError as error:
                self.skipped.append(Skipped(folder, f"folder not readable: {error.strerror}"))

    def _files_of(self, listing: Iterable[os.DirEntry[str]], folders: list[str]) -> Iterator[os.DirEntry[str]]:
        for entry in listing:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                self.skipped.append(Skipped(entry.path, "a link to a folder, not followed; name it itself"))
            else:
                yield entry

    def _add_files(self, files: Files, base: str) -> None:
        before = len(self.drafts)
        self._take(cases_of_files(files, base, self.model))
        self._listings.append(range(before, len(self.drafts)))

    def _take(self, found: Iterable[Draft | Skipped]) -> None:
        for each in found:
            if isinstance(each, Skipped):
                self.skipped.append(each)
            else:
                self.drafts.append(each)

    def found(self) -> Sequence[Draft]:
        """What was found, each file once: a folder and a pattern may both name it."""
        listed = array("q", chain.from_iterable(self._listings) if len(self._listings) > 1 else ())
        inputs = Mapped(lambda at: self.drafts[at][1:3], listed)
        first, again = set[object](), set[int]()
        for at in alike(inputs):
            if inputs[at] in first:
                again.add(listed[at])
            first.add(inputs[at])
        every = range(len(self.drafts))
        return Mapped(self.drafts.__getitem__, array("q", (at for at in every if at not in again)) if again else every)

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


def _identity(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        info = entry.stat()
    except OSError:
        return 0, 0  # a dangling link, or deleted since: it fails when its turn comes
    return info.st_size, info.st_mtime_ns


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
