"""What `ray job submit --working-dir DIR` would send to the cluster, by Ray's own rules; starts nothing, sends nothing."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from alpagasus_ray.raycluster.ray_internals import upload_limit, visit_upload

LIMIT_BYTES = upload_limit()
"""Ray refuses packages of this size; it does not compress them."""
SEARCHED_BYTES = 1 << 20
SECRET_NAME = re.compile(
    r"^(\.env.*|\.netrc|\.pypirc|auth_token|id_(rsa|dsa|ecdsa|ed25519)|.*\.(key|pem|p12|pfx)|credentials(\.json)?)$",
    re.IGNORECASE,
)
HARMLESS_NAME = re.compile(r"\.(example|sample|template|dist)$", re.IGNORECASE)


class Sent(NamedTuple):
    """One file of the upload."""

    path: Path
    bytes: int


def sent_files(folder: Path) -> list[Sent]:
    """The files that would be sent, after `.gitignore`, `.rayignore` and Ray's own exceptions."""
    found: list[Sent] = []

    def keep(path: Path) -> None:
        if path.is_file():
            found.append(Sent(path, path.stat().st_size))

    visit_upload(folder.absolute(), keep)
    return found


def secrets_among(files: Iterable[Sent], keys: Iterable[str]) -> list[Path]:
    """Files that are named as files of keys are, or that hold one of these keys."""
    needles = [key.encode() for key in keys if key]
    return [file.path for file in files if _is_secret(file, needles)]


def _is_secret(file: Sent, needles: list[bytes]) -> bool:
    name = file.path.name
    if SECRET_NAME.match(name) and not HARMLESS_NAME.search(name):
        return True
    return any(needle in content for content in _content(file) for needle in needles)


def _content(file: Sent) -> Iterator[bytes]:
    if file.bytes <= SEARCHED_BYTES:
        try:
            yield file.path.read_bytes()
        except OSError:  # Ray could not send it either
            return
