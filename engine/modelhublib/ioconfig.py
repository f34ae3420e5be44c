"""The inputs and outputs that a configuration declares, in either of its two forms.

Older contributions describe their only input right in `io.input` (`{"format": [...], "dim_limits": [...]}`),
newer ones give each input a key (`{"format": [...], "t1": {"format": [...], "dim_limits": [...]}, ...}`),
and the key is `single` where there is but one.
"""

_NOT_INPUTS = ("format", "description", "dim_limits")


def input_sections(io):
    """Return {input key: its section}; io is the configuration's `model.io`."""
    declared = (io or {}).get("input") or {}
    if "dim_limits" in declared:
        return {"single": declared}
    sections = dict((key, value) for key, value in declared.items()
                    if key not in _NOT_INPUTS and isinstance(value, dict))
    return sections or {"single": declared}


def input_section(io, id=None):
    """Return the section of input `id` (None: the only one); raise IOError where there is no such input."""
    sections = input_sections(io)
    if id is None and len(sections) == 1:
        return next(iter(sections.values()))
    key = "single" if id is None else id
    if key not in sections:
        raise IOError('The configuration has no input "%s"; it has: %s' % (key, ", ".join(sorted(sections))))
    return sections[key]


def input_formats(section):
    """Return the MIME types a section accepts; empty where it names none, which means all."""
    formats = section.get("format") or []
    return list(formats) if isinstance(formats, (list, tuple)) else [formats]


def dim_limits(io, id=None):
    """Return [{"min": int, "max": int}, ...] of input `id`, either may be absent; empty: no limits."""
    return input_section(io, id).get("dim_limits") or []
