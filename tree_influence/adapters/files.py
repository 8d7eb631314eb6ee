"""Tells from a file's first bytes which library saved the model in it."""

import os
import zipfile
from pathlib import Path

from influence.errors import StorageError, UntrustedFileError

_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_JSON_MARKS = {"xgboost": (b'"learner"',), "catboost": (b'"oblivious_trees"', b'"features_info"')}


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """Name of the library that wrote a saved model.

    Raises:
        StorageError: The file cannot be read, or holds no model that is known here.
        UntrustedFileError: The file is a pickle.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"Expected a saved model, but {path} cannot be read: {error}") from error
    if content.startswith(_PICKLE_STARTS):
        raise UntrustedFileError(
            f"{path} is a pickle, and loading one runs whatever code it holds. Save the model in "
            "its library's own format; scikit-learn models with skops.io.dump."
        )
    if content.startswith(b"tree\n") or content.startswith(b"tree\r\n"):
        return "lightgbm"
    if content.startswith(b"CBM1"):
        return "catboost"
    if content.startswith(b"PK") and zipfile.is_zipfile(path):
        return "sklearn"
    if content.startswith(b"{L") and b"learner" in content[:64]:
        return "xgboost"  # UBJSON
    if content.lstrip()[:1] == b"{":
        for library, marks in _JSON_MARKS.items():
            if any(mark in content for mark in marks):
                return library
    raise StorageError(
        f"{path} is no saved model of LightGBM (.txt), XGBoost (.json, .ubj), CatBoost (.cbm, "
        ".json) or scikit-learn (skops), or it is truncated."
    )
