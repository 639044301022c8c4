"""Pseudonyms of patients: a keyed hash (HMAC-SHA256) of the identifier, so that a table about patients names nobody.

Without the key a pseudonym cannot be computed from an identifier, not even by trying all hospital numbers, which an
unkeyed hash would allow. The study's fingerprint is hashed along: the same patient has other pseudonyms in other
studies. The key is made once per house, lies outside every study (mode 0600) and is never written into one; the study
keeps only where it lay and a short check value, so that another key is noticed and not mistaken for it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dptrain.errors import StudyError
from dptrain.study.atomic import write_json

KEY_VARIABLE = "DPTRAIN_KEY_FILE"
"""Environment variable that says where the house's key lies."""
RECORD = Path("restricted") / "pseudonyms.json"
"""In a study: where the key lay and its check value. Not the key."""
KEY_BYTES = 32
DIGITS = 20
"""Hexadecimal digits of a pseudonym (80 bits): two of a million patients share one with probability below 1e-12."""


@dataclass(frozen=True)
class Pseudonyms:
    """Maps identifiers to pseudonyms for one study."""

    key: bytes
    domain: str
    """What separates this study's pseudonyms from those of others."""

    def __repr__(self) -> str:
        return f"Pseudonyms(check={self.check})"

    def of(self, patient_id: str) -> str:
        """The pseudonym: 20 hexadecimal digits."""
        return self._digest(f"patient\0{self.domain}\0{patient_id}")[:DIGITS]

    @property
    def check(self) -> str:
        """Tells keys apart and gives nothing else away."""
        return hmac.new(self.key, b"dptrain key check", hashlib.sha256).hexdigest()[:8]

    def _digest(self, text: str) -> str:
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()


def default_key_file() -> Path:
    """Where the house's key lies: $DPTRAIN_KEY_FILE, or pseudonyms.key in dptrain's folder of the user's settings."""
    named = os.environ.get(KEY_VARIABLE)
    if named:
        return Path(named)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "dptrain" / "pseudonyms.key"


def study_domain(info: Mapping[str, Any]) -> str:
    """What separates a study's pseudonyms from another's, from the content of study.json."""
    return f"{info['fingerprint']}:{info['cohort']['fingerprint']}"


def study_pseudonyms(study: Path, domain: str, key_file: Path | None = None) -> Pseudonyms | None:
    """The pseudonyms of a study; makes the house's key when the house has none and the study was made with none.

    None if the study's pseudonyms were made with a key that is not here: they cannot be made again, and others would
    be mistaken for them.

    Raises:
        StudyError: the key file is unreadable, open to others, malformed or inside the study, or `key_file` was named
            and is another key than the study's.
    """
    record = _read_record(study)
    if key_file is not None:
        places = [key_file]
    else:
        places = [default_key_file(), *([Path(record["key_file"])] if record else [])]
    for place in places:
        if _is_below(place, study):
            raise StudyError(
                f"The key file {place} lies inside the study. Whoever gets the study would get the key with it: "
                f"keep it elsewhere and name it with {KEY_VARIABLE} or --key."
            )
        if place.exists():
            found = Pseudonyms(read_key(place), domain)
            if record is None or record["check"] == found.check:
                _write_record(study, record, place, found)
                return found
    if record is not None:
        if key_file is not None:
            raise StudyError(
                f"{key_file} is not the key of this study's pseudonyms (check value {record['check']}; it lay at "
                f"{record['key_file']}). Name that key."
            )
        return None
    place = places[0]
    _make_key(place)
    made = Pseudonyms(read_key(place), domain)
    _write_record(study, record, place, made)
    return made


def read_key(file: Path) -> bytes:
    """The key in `file`; refused if others may read it or it is no key of ours."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"Cannot read the key of the pseudonyms, {file}: {error}. Name another with {KEY_VARIABLE} or --key."
        ) from error
    if mode & 0o077:
        raise StudyError(
            f"The key of the pseudonyms, {file}, may be read by others (mode {mode:o}). Take it back: chmod 600 {file}"
        )
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise StudyError(
            f"{file} is not a key of dptrain: expected {2 * KEY_BYTES} hexadecimal digits. Move it away to have a new "
            f"key made, or name the right one with {KEY_VARIABLE} or --key."
        )
    return key


def _make_key(file: Path) -> None:
    """A new key, readable by its owner from the first byte; one that another process made meanwhile is kept."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, file)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise StudyError(
            f"Cannot write the key of the pseudonyms, {file}: {error.strerror or error}. Name a place that can be "
            f"written, outside the study, with {KEY_VARIABLE}."
        ) from error


def _read_record(study: Path) -> dict[str, str] | None:
    file = study / RECORD
    try:
        record = json.loads(file.read_text())
        return {"key_file": str(record["key_file"]), "check": str(record["check"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"Cannot read {file}: {type(error).__name__}. Delete it to have new pseudonyms made."
        ) from error


def _write_record(study: Path, before: dict[str, str] | None, place: Path, made: Pseudonyms) -> None:
    record = {"key_file": str(place.absolute()), "check": made.check}
    if record != before:
        write_json(study / RECORD, record)


def _is_below(place: Path, study: Path) -> bool:
    return place.resolve().is_relative_to(study.resolve())
