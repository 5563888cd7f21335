"""What `@app.function(...)` takes, and the API's fields that this becomes. Standard library only.

Not here: whether the values are allowed (`quilt_fn.model.function` says that at the deploy). Nothing is read or checked
at decoration but the names of the options: user files are imported inside the sandbox too, where requirement files and
the deploying user's environment are not there.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from quilt_fn.errors import InvalidValue

Hook = Callable[[], object] | str


class FunctionOptions(TypedDict, total=False):
    """Defaults are the platform's where an option is not given."""

    name: str
    """In URLs; by default the function's own with `-` for `_`, after the app's name where that has one."""
    description: str
    memory_mb: int
    cpu_percent: int
    """100 is one core."""
    timeout_s: float
    requirements: Sequence[str] | str | Path
    """Lines as in requirements.txt, or the path of such a file, relative to the function's own file."""
    include: Sequence[str | Path]
    """Files and folders to pack beside the function's own, relative to its file's folder (a package's parent)."""
    min_instances: int
    max_instances: int
    buffer_instances: int
    idle_timeout_s: float
    max_queue: int
    environment: Mapping[str, str]
    secrets: Mapping[str, str] | Sequence[str]
    """Values by name, or names of variables of the environment of who deploys. In no template and no snapshot."""
    before_snapshot: Hook | Sequence[Hook]
    """Run once, before the snapshot: what they load, every instance has."""
    after_restore: Hook | Sequence[Hook]
    """Run in each new instance: connections, secrets, anything that copies must not share."""
    warmup_event: Any
    """One call with this event is made before the snapshot."""
    public: bool
    """Whether the function's URL needs no key. Pickled calls always need one."""
    network: Literal["egress", "none"]
    volumes: Sequence[str]
    """`<volume>:<target>`, with `:ro` to read only. Not there at import: only instances have them."""
    pids_limit: int
    result_mb: int
    fresh_instance: bool
    """Whether each invocation gets an instance of its own."""
    recycle_after_invocations: int
    recycle_after_s: float
    recycle_growth_mb: int
    labels: Mapping[str, str]


API_FIELDS = {
    "description": "description", "memory_mb": "memory_limit_mb", "cpu_percent": "cpu_limit_percent",
    "timeout_s": "timeout_seconds", "min_instances": "min_instances", "max_instances": "max_instances",
    "buffer_instances": "buffer_instances", "idle_timeout_s": "idle_timeout_seconds", "max_queue": "max_queue",
    "environment": "environment", "warmup_event": "warmup_event", "network": "network",
    "volumes": "volumes", "pids_limit": "pids_limit",
    "result_mb": "result_limit_mb", "fresh_instance": "cleanup_on_exit", "labels": "labels",
    "recycle_after_invocations": "recycle_after_invocations", "recycle_after_s": "recycle_after_seconds",
    "recycle_growth_mb": "recycle_memory_growth_mb",
}  # fmt: skip
"""Options that go as they are, by the API's names."""


def check_names(options: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that there is not, with the nearest one that there is."""
    known = FunctionOptions.__annotations__
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *API_FIELDS.values()], n=1)
            meant = {api: option for option, api in API_FIELDS.items()}.get(near[0], near[0]) if near else None
            raise TypeError(f"app.function has no option {name!r}" + (f"; do you mean {meant!r}?" if meant else ""))


def api_fields(options: FunctionOptions, folder: Path) -> dict[str, Any]:
    """The API's fields but name, handler, bundle and hooks. Raises InvalidValue where a file or a secret is missing."""
    fields: dict[str, Any] = {
        api: value for option, api in API_FIELDS.items() if (value := options.get(option)) is not None
    }
    if "requirements" in options:
        fields["requirements"] = requirements(options["requirements"], folder)
    if "secrets" in options:
        fields["secrets"] = secrets(options["secrets"])
    if "public" in options:
        fields["auth"] = "public" if options["public"] else "key"
    return fields


def secrets(given: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Values by name. Raises InvalidValue for a name that this environment does not have."""
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str):
        given = [given]
    missing = [name for name in given if name not in os.environ]
    if missing:
        raise InvalidValue(f"no value for the secret {', '.join(missing)}: it is not in this environment")
    return {name: os.environ[name] for name in given}


def requirements(given: Sequence[str] | str | Path, folder: Path) -> list[str]:
    """Requirement lines from a list, or from a file below `folder`."""
    if isinstance(given, (str, Path)):
        return read_requirements(folder / given)
    return [line.strip() for line in given if line.strip()]


def read_requirements(path: Path) -> list[str]:
    """The requirements of a file in pip's format, `-r` followed. Raises InvalidValue for other options of pip's."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"the requirements in {path} cannot be read: {error}") from error
    found: list[str] = []
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), 1):
        line = (" " + line).split(" #")[0].strip()
        if not line:
            continue
        option, _, rest = line.partition(" ")
        if option in ("-r", "--requirement"):
            found += read_requirements(path.parent / rest.strip())
        elif line.startswith("-") or " --" in line:
            raise InvalidValue(
                f"{path.name}, line {number}: {line.split('=')[0]} is an option of pip's and has no effect here",
                hint="name packages and versions only; hashes are checked when the platform resolves them",
            )
        else:
            found.append(line)
    return found


def hooks(given: Hook | Sequence[Hook] | None) -> list[Hook]:
    """One or several hooks as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
