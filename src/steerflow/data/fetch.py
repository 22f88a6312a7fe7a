"""One file over HTTP: goes on where it stopped, tries mirrors in turn, and is there whole and verified or not at all."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from steerflow.artefact import read_json, write_json
from steerflow.errors import ArtefactError, DataError
from steerflow.progress import Bar, bar

_CHUNK = 1 << 20
_MEGABYTE = 1e6
# A server that answers with one of these may do better in a moment; other refusals are final.
_PASSING = {408, 429, 500, 502, 503, 504}


class _MirrorError(Exception):
    """This mirror cannot deliver the file; the next one may."""


@dataclass(frozen=True)
class _Answer:
    stream: Any
    start: int
    size: int | None
    etag: str | None
    sha256: str | None


def fetch(
    urls: Sequence[str],
    path: Path,
    *,
    sha256: str | None = None,
    magic: bytes = b"",
    hint: str = "",
    attempts: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Path:
    """Download ``path`` from the first of ``urls`` that delivers it; what arrived before is not asked for again.

    Until it is complete the file is ``path.part``, kept over interruptions. A connection that breaks is taken up again, at most
    ``attempts`` times in a row without a byte of progress. The file is verified against ``sha256``, or the checksum that the
    server publishes (Hugging Face's X-Linked-Etag), and against ``magic``, its first bytes; one that fails is thrown away and
    the next mirror is tried.
    Raises DataError that says what each mirror answered, followed by ``hint``; ArtefactError for a full disk.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(
            f"Could not write to {path.parent}: {error.strerror or error}. Choose another folder."
        ) from error
    part = path.with_name(f"{path.name}.part")
    about = path.with_name(f"{path.name}.part.json")
    refusals = []
    for url in urls:
        if path.exists():
            break
        try:
            published = _receive(url, part, about, attempts, timeout, pause)
            _verify(part, sha256 or published, magic)
        except _MirrorError as error:
            refusals.append(f"  {url}: {error}")
            continue
        os.replace(part, path)
        about.unlink(missing_ok=True)
    if not path.exists():
        answers = "\n".join(refusals) or "  no mirror was given"
        raise DataError(f"{path.name} could not be downloaded:\n{answers}" + (f"\n{hint}" if hint else ""))
    return path


def _receive(url: str, part: Path, about: Path, attempts: int, timeout: float, pause: float) -> str | None:
    """Fill ``part``; returns the checksum that the server publishes, if any."""
    failures, received = 0, False
    with ExitStack() as stack:
        progress: Bar | None = None
        while True:
            have = part.stat().st_size if part.exists() else 0
            try:
                with _ask(url, part, about, have, timeout) as answer:
                    if progress is None:
                        _require_space(part, (answer.size or 0) - answer.start)
                        title, total = f"Download {part.stem} (MB)", (answer.size or 0) / _MEGABYTE
                        progress = stack.enter_context(bar(title, total, answer.start / _MEGABYTE))
                    done = _copy(answer, part, progress)
                    if answer.size is None or done == answer.size:
                        return answer.sha256
                reason = f"the connection ended after {done:,} of {answer.size:,} bytes"
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in _PASSING:
                    raise _MirrorError(f"{error.code} {error.reason}") from error
                reason = f"{error.code} {error.reason}"
            except urllib.error.URLError as error:
                # No connection at all; waiting helps only where there was one a moment ago.
                if not received:
                    raise _MirrorError(str(error.reason)) from error
                reason = str(error.reason)
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = str(error) or type(error).__name__
            moved = part.exists() and part.stat().st_size > have
            received, failures = received or moved, 1 if moved else failures + 1
            if failures >= attempts:
                raise _MirrorError(reason)
            time.sleep(pause * failures)


@contextmanager
def _ask(url: str, part: Path, about: Path, have: int, timeout: float) -> Iterator[_Answer]:
    """The server's answer from byte ``have`` on, or from the start where what is here belongs to another file."""
    known = _known(about)
    headers = {"User-Agent": "steerflow", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known.get("url") == url and known.get("etag"):
            headers["If-Range"] = known["etag"]
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    if not url.startswith(("http://", "https://")):
        raise _MirrorError("not an http or https address")
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{have}":
            yield _Answer(io.BytesIO(), have, have, None, redirects.sha256)
            return
        # What is here is longer than the file there: it is another one.
        part.unlink(missing_ok=True)
        headers.pop("Range")
        headers.pop("If-Range", None)
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    with response:
        start, size = _extent(response)
        etag = response.headers.get("ETag")
        if start and (start != have or (known.get("size") is not None and size != known["size"])):
            part.unlink(missing_ok=True)
            raise ValueError("the file there is another one than that begun before; starting again")
        if etag is None or etag.startswith("W/"):
            etag = None
        write_json(about, {"url": url, "etag": etag, "size": size})
        yield _Answer(
            response, start, size, etag, redirects.sha256 or _as_sha256(response.headers.get("X-Linked-Etag"))
        )


def _known(about: Path) -> dict[str, Any]:
    try:
        return read_json(about)
    except ArtefactError:
        return {}


def _extent(response: Any) -> tuple[int, int | None]:
    """(first byte, size of the whole file) of an answer."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if match is None:
            raise ValueError("the server's answer names no range")
        return int(match[1]), int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length is not None else None


def _copy(answer: _Answer, part: Path, progress: Bar) -> int:
    """Append the answer to ``part``; returns how far the file goes now, also when the connection breaks."""
    done = answer.start
    with _opened(part, "ab" if answer.start else "wb") as file:
        while data := answer.stream.read(_CHUNK):
            try:
                file.write(data)
                file.flush()
            except OSError as error:
                raise _no_space(part, error) from error
            done += len(data)
            progress.update(done / _MEGABYTE)
    return done


@contextmanager
def _opened(part: Path, mode: str) -> Iterator[IO[bytes]]:
    try:
        file = open(part, mode)  # noqa: SIM115
    except OSError as error:
        raise _no_space(part, error) from error
    try:
        yield file
    finally:
        # Closing flushes; on a full disk that fails again, and would hide the error that says what to do.
        with suppress(OSError):
            file.close()


def _no_space(part: Path, error: OSError) -> ArtefactError:
    return ArtefactError(
        f"Could not write {part}: {error.strerror or error}. Free some space and type the same again; what arrived is kept."
    )


def _require_space(part: Path, size: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if size > free:
        raise ArtefactError(
            f"{part.stem} needs {size / 1e9:.1f} GB more, {part.parent} has {free / 1e9:.1f} GB left. Free some space or choose "
            "another folder (STEERFLOW_DATA)."
        )


def _verify(part: Path, sha256: str | None, magic: bytes) -> None:
    with open(part, "rb") as file:
        if file.read(len(magic)) != magic:
            part.unlink()
            raise _MirrorError("what arrived is another kind of file (an error page?)")
        file.seek(0)
        if sha256 is not None and (found := hashlib.file_digest(file, "sha256").hexdigest()) != sha256.lower():
            part.unlink()
            raise _MirrorError(f"what arrived has the checksum {found[:12]}…, not {sha256[:12]}…")


def _as_sha256(etag: str | None) -> str | None:
    match = re.fullmatch(r'"?([0-9a-fA-F]{64})"?', etag or "")
    return match[1].lower() if match else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the checksum that the redirecting server publishes."""

    def __init__(self) -> None:
        self.sha256: str | None = None

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        self.sha256 = self.sha256 or _as_sha256(headers.get("X-Linked-Etag"))
        return super().redirect_request(req, fp, code, msg, headers, newurl)
