"""What went wrong, for people, and whether another attempt may help. Pure: it knows errors by class and name only."""

import errno
import re

_FATAL_NAMES = frozenset({"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "InvalidAccessKeyId"})
"""Errors of libraries that this program does not import."""
_CODE = re.compile(r"\((\w+)\) when calling")
"""How libraries of AWS name the answer of a store."""
_REFUSALS = frozenset(
    {
        "AccessDenied", "AccountProblem", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidAccessKeyId",
        "InvalidSecurity", "InvalidToken", "SignatureDoesNotMatch", "UnauthorizedAccess", "XAdminUserNotFound",
    }
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHARACTERS = 700


class TransferError(Exception):
    """A transfer cannot go on. The message says why, and what to do."""

    fatal = True
    """Another attempt does not help."""


class ChangedError(TransferError):
    """A file has changed while it was read."""

    fatal = False


def is_fatal(error: BaseException) -> bool:
    """Whether the same attempt fails again unless a person changes something."""
    if isinstance(error, TransferError):
        return error.fatal
    if isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError | ImportError | UnicodeError):
        return True
    return _refuses(error)


def _refuses(error: BaseException) -> bool:
    """Whether the store knows who asks, and does not let it in; or does not know."""
    code = _CODE.search(str(error))
    refused = isinstance(error, PermissionError) or type(error).__name__ in _FATAL_NAMES
    return refused or (code is not None and code[1] in _REFUSALS)


def words(error: BaseException, url: str) -> str:
    """Return what happened and what to do."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, TransferError):
        return said[:_CHARACTERS]
    if isinstance(error, ImportError):
        return f"{url} needs a Python package that the image lacks ({said}); {_IMAGE}"[:_CHARACTERS]
    if _refuses(error):
        return f"{url} refuses access: {said[:400]}; check secretRef, or the rights of the pod's service account"
    if isinstance(error, FileNotFoundError):
        return f"{url} does not exist: {said[:400]}; create the bucket or directory, or correct the url"
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"no space is left at {url}: {said[:400]}"
    return f"{url}: {type(error).__name__}: {said}"[:_CHARACTERS]


_IMAGE = "set spec.transfer.image to an image with it, or build the training image with EXTRAS=s3"
