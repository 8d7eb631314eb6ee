"""Models and tokenizers from folders that `save_pretrained` wrote, without running their code."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from influence.errors import InputError, MissingPackageError, StorageError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL, ADAPTER = "config.json", "adapter_config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def check_model_folder(folder: str) -> None:
    """Refuses what `save_pretrained` did not write, before anything heavy is imported.

    Raises:
        StorageError: There is no such folder, or no model in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise StorageError(f"Expected a model's folder at {folder}, but there is none.")
    if not any((path / name).is_file() for name in (MODEL, ADAPTER)):
        raise StorageError(
            f"Expected a folder that save_pretrained wrote, but {folder} holds neither {MODEL} "
            f"nor {ADAPTER}; save the model with model.save_pretrained(folder)."
        )


def load_model(folder: str) -> "tuple[nn.Module, PreTrainedTokenizerBase | None]":
    """The model and, where there is one, its tokenizer; nothing is fetched, no code of it is run.

    A causal language model or a sequence classifier by what `config.json` names; the adapter of a
    PEFT model on its base model, a folder or already in the cache of Hugging Face.

    Raises:
        StorageError: Files are missing or damaged, or weights of the model are missing.
        UnsupportedModelError: A model of another task.
        MissingPackageError: transformers or, for an adapter, peft is not installed.
    """
    check_model_folder(folder)
    _be_quiet()
    path = Path(folder)
    if (path / ADAPTER).is_file():
        model, base = _with_adapter(path)
        return model, _tokenizer(path) or _tokenizer(base)
    return _whole(path, _json(path / MODEL), initialised=()), _tokenizer(path)


def _whole(path: Path, stated: dict[str, Any], initialised: tuple[str, ...]) -> nn.Module:
    """The model of a folder; `initialised` are parts whose weights may come from elsewhere."""
    import transformers

    names = stated.get("architectures") or ["none"]
    if names[0].endswith(("ForCausalLM", "LMHeadModel")):
        kind = transformers.AutoModelForCausalLM
    elif names[0].endswith("ForSequenceClassification"):
        kind = transformers.AutoModelForSequenceClassification
    else:
        raise UnsupportedModelError(
            "Expected a causal language model or a sequence classifier, but config.json of "
            f"{path} names {names[0]}; for others use llm_influence.trace with a loss of your own."
        )
    try:
        found: Any = kind.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
        )  # fmt: skip
    except Exception as error:  # whatever the libraries meet in damaged files
        raise StorageError(f"The model in {path} cannot be loaded: {_line(error)}") from error
    model, report = found
    if report["mismatched_keys"]:
        first = sorted(report["mismatched_keys"])[0]  # in transformers 4 the name alone
        name, shape = (first, "another shape") if isinstance(first, str) else (
            first[0], f"the shape {tuple(first[1])}"
        )  # fmt: skip
        raise StorageError(
            f"The weights in {path} are not of the model in its config.json: {name} has {shape}, "
            f"expected {tuple(model.state_dict()[name].shape)}; save model and config together "
            "again."
        )
    missing = [n for n in report["missing_keys"] if not any(part in n for part in initialised)]
    if missing:
        raise StorageError(
            f"The weights in {path} lack {', '.join(sorted(missing)[:5])} (in all {len(missing)}) "
            f"of {names[0]}; save the whole trained model with save_pretrained."
        )
    return model


def _with_adapter(path: Path) -> tuple[nn.Module, Path]:
    """The PEFT model of a folder, its adapter trainable as it was, and the folder of its base."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingPackageError(
            f"{path} holds an adapter of PEFT: pip install 'influence-toolkit[llm]'."
        ) from error
    stated = _json(path / ADAPTER)
    base = _base_folder(path, stated.get("base_model_name_or_path"))
    about = _json(base / MODEL)
    own = tuple(stated.get("modules_to_save") or ())
    if stated.get("task_type") == "SEQ_CLS":
        about = {**about, "architectures": ["ForSequenceClassification"]}
        own = (*own, "score", "classifier")
    model = _whole(base, about, own)
    try:
        adapted = PeftModel.from_pretrained(
            model, str(path), is_trainable=True, local_files_only=True
        )  # fmt: skip
    except Exception as error:  # whatever the libraries meet in damaged files
        raise StorageError(f"The adapter in {path} cannot be loaded: {_line(error)}") from error
    return adapted, base


def _base_folder(path: Path, name: str | None) -> Path:
    from huggingface_hub import snapshot_download

    for folder in (Path(name or "."), path / (name or ".")):
        if name and (folder / MODEL).is_file():
            return folder
    try:
        return Path(snapshot_download(name or "", local_files_only=True))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"The adapter in {path} is for the base model {name!r}, which is neither a folder nor "
            f"in the cache of Hugging Face; put its folder into {ADAPTER} as "
            "base_model_name_or_path."
        ) from error


def _tokenizer(path: Path) -> "PreTrainedTokenizerBase | None":
    if not any((path / name).is_file() for name in TOKENIZERS):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the libraries meet in damaged files
        raise StorageError(f"The tokenizer in {path} cannot be loaded: {_line(error)}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(found).__name__}.")
    return found


def _line(error: Exception) -> str:
    """The first line of another library's message."""
    return (str(error).strip().splitlines() or [repr(error)])[0]


def _be_quiet() -> None:
    """Only errors from transformers: its bars and hints are not about attribution."""
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise MissingPackageError(
            "Language models need transformers: pip install 'influence-toolkit[llm]'."
        ) from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
