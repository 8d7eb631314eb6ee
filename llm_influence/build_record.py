"""What a store of the command line was built with: `influence.json`, beside the store's files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from influence.errors import InputError, StorageError

FORMAT = 1
RECORD = "influence.json"
PATHS = ("model", "data", "store", "checkpoints")


@dataclass(frozen=True)
class BuildSettings:
    """The arguments of `influence llm build`, by the names of its options, with their defaults."""

    model: str
    data: str
    store: str
    checkpoints: tuple[str, ...] | None = None
    rates: tuple[float, ...] | None = None
    method: str = "tracin"
    p: int = 16
    metric: Literal["identity", "adam"] = "identity"
    normalise: Literal["unit"] | None = None
    whiten: float | None = None
    batch_size: int = 16
    max_length: int | None = None
    device: str | None = None
    dtype: str | None = None
    modules: tuple[str, ...] = ("*",)
    store_dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    id: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Settings of those arguments that are no None; lists become tuples."""
        taken: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in given.items()
            if value is not None
        }
        return cls(**taken)


@dataclass(frozen=True)
class BuildRecord:
    """What `influence.json` holds.

    Attributes:
        settings: Arguments as given, what was left open resolved (device, max_length).
        absolute: Absolute paths by the names in `PATHS`, those of checkpoints in a list.
        fingerprint: Of the run; of the weights of each checkpoint by name, under "models"; of the
            training examples.
        facts: What a reader of the store should know: covered share, truncated examples, versions.
    """

    settings: BuildSettings
    absolute: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    facts: Mapping[str, Any]

    def text(self) -> str:
        """The content of the file."""
        content = {"format": FORMAT, **asdict(self)}
        return json.dumps({**content, "checksum": _checksum(content)}, indent=2) + "\n"

    def located(self) -> BuildSettings:
        """The settings with paths that exist: the absolute ones, or those as given from here."""
        s = self.settings
        checkpoints = s.checkpoints and tuple(
            _existing(given, absolute)
            for given, absolute in zip(s.checkpoints, self.absolute["checkpoints"], strict=True)
        )
        model, data = (_existing(getattr(s, n), self.absolute[n]) for n in ("model", "data"))
        return replace(s, model=model, data=data, checkpoints=checkpoints)


def absolute_paths(settings: BuildSettings) -> dict[str, Any]:
    """Absolute paths by the names in `PATHS`."""
    given = {name: getattr(settings, name) for name in PATHS}
    return {
        name: [str(Path(p).absolute()) for p in value or ()]
        if name == "checkpoints"
        else str(Path(value).absolute())
        for name, value in given.items()
    }


def read_record(path: Path) -> BuildRecord:
    """Reads `influence.json`.

    Raises:
        StorageError: It is not there, damaged, or of another format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, checksum = found["format"], found.pop("checksum", None)
        if version == FORMAT:
            if checksum != _checksum(found):
                raise ValueError("its checksum is wrong")
            del found["format"]
            settings = found.pop("settings")
            known = {field.name for field in fields(BuildSettings)}
            if settings.keys() != known:
                raise ValueError(f"other settings: {sorted(settings.keys() ^ known)}")
            return BuildRecord(BuildSettings.of(settings), **found)
    except FileNotFoundError as error:
        raise StorageError(
            f"Expected {path}, which `influence llm build` writes, but there is none; build the "
            "store with it first."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{path} is damaged or of another kind ({error}); build the store again."
        ) from error
    raise StorageError(
        f"{path} has format {version}, this version reads {FORMAT}; build the store again."
    )


def check_fingerprint(record: BuildRecord, found: Mapping[str, Any]) -> None:
    """Refuses a model or training examples that are not those the store was built from.

    Args:
        record: Of the store.
        found: The present fingerprint, as in a record.
    """
    built = record.fingerprint
    changed = [name for name, key in found["models"].items() if built["models"].get(name) != key]
    if changed or found["models"].keys() != built["models"].keys():
        places = record.absolute["checkpoints"] or [record.absolute["model"]]
        raise InputError(
            f"The weights are not those the store was built from: {', '.join(changed) or 'others'} "
            f"of {', '.join(places)} changed since; restore them, or build another store."
        )
    if found["examples"] != built["examples"]:
        raise InputError(
            f"{record.absolute['data']} holds other training examples than the store was built "
            f"from (or the tokenizer in {record.absolute['model']} changed). If new ones were "
            "added at its end, run the same build again, it appends them; else restore the file, "
            "or build another store."
        )


def _checksum(content: Mapping[str, Any]) -> str:
    from influence.run import fingerprint

    return fingerprint(json.dumps(content, sort_keys=True))


def _existing(given: str, absolute: str) -> str:
    for path in (absolute, given):
        if Path(path).exists():
            return path
    raise StorageError(
        f"Expected {absolute} (given as {given}), from which the store was built, but there is "
        "none; put it back."
    )
