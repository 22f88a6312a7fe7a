"""Downloading from a server on this machine that breaks, lies and redirects."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from steerflow.data import fetch as fetch_module
from steerflow.data.download import MIRRORS, get_data, official_names
from steerflow.data.fetch import fetch
from steerflow.errors import ArtefactError, DataError, UnknownNameError

QUICK = {"attempts": 3, "timeout": 5.0, "pause": 0.0}


@dataclass
class Server:
    """What the server does: files by path, how many bytes of each answer it sends, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    cuts: int = 0
    ranges: bool = True
    # Paths that are redirected to the file of the same name below /cdn, with the checksum in a header.
    linked: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if state.statuses:
                return self.send_error(state.statuses.pop(0))
            if self.path in state.linked:
                self.send_response(302)
                self.send_header("Location", "/cdn" + self.path)
                self.send_header("X-Linked-Etag", f'"{state.linked[self.path]}"')
                self.send_header("Content-Length", "0")
                return self.end_headers()
            data = state.files.get(self.path.removeprefix("/cdn"))
            if data is None:
                return self.send_error(404)
            etag, begin = f'"{hashlib.md5(data).hexdigest()}"', 0
            fresh = self.headers.get("If-Range") not in (None, etag)
            if wanted and state.ranges and not fresh:
                begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                if begin >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            body = data[begin:]
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", etag)
            self.end_headers()
            if state.cuts and state.cut_after is not None:
                state.cuts -= 1
                body = body[: state.cut_after]
            self.wfile.write(body)
            self.close_connection = True

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{httpd.server_port}"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def payload():
    return b"PK\x03\x04" + np.random.default_rng(0).bytes(300_000)


def test_a_broken_connection_goes_on_where_it_stopped(server, payload, tmp_path):
    server.files["/a.npz"] = payload
    server.cut_after, server.cuts = 100_000, 2
    path = fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", magic=b"PK", **QUICK)
    assert path.read_bytes() == payload
    assert server.asked == [("/a.npz", None), ("/a.npz", "bytes=100000-"), ("/a.npz", "bytes=200000-")]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    # It is there: nothing is asked for again.
    fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK)
    assert len(server.asked) == 3


def test_a_later_run_goes_on_too(server, payload, tmp_path):
    server.files["/a.npz"] = payload
    server.cut_after, server.cuts = 50_000, 100
    with pytest.raises(DataError, match=r"a\.npz could not be downloaded"):
        fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", attempts=1, timeout=5.0, pause=0.0)
    assert (tmp_path / "a.npz.part").stat().st_size == 50_000
    assert not (tmp_path / "a.npz").exists()
    server.cuts, server.asked = 0, []
    assert fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK).read_bytes() == payload
    assert server.asked == [("/a.npz", "bytes=50000-")]


def test_a_file_that_is_complete_but_not_yet_renamed(server, payload, tmp_path):
    server.files["/a.npz"] = payload
    (tmp_path / "a.npz.part").write_bytes(payload)
    assert fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK).read_bytes() == payload
    assert server.asked == [("/a.npz", f"bytes={len(payload)}-")]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_another_file_is_never_continued(ranges, server, payload, tmp_path):
    server.files["/a.npz"] = b"PK\x03\x04" + bytes(200_000)
    server.cut_after, server.cuts, server.ranges = 50_000, 1, ranges
    with pytest.raises(DataError):
        fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", attempts=1, timeout=5.0, pause=0.0)
    server.files["/a.npz"] = payload
    assert fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK).read_bytes() == payload


def test_a_longer_part_of_another_file_is_never_continued(server, payload, tmp_path):
    (tmp_path / "a.npz.part").write_bytes(payload + payload)
    server.files["/a.npz"] = payload
    assert fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK).read_bytes() == payload


def test_mirrors_are_tried_in_turn(server, payload, tmp_path):
    good = hashlib.sha256(payload).hexdigest()
    server.files |= {"/wrong/a.npz": payload[:-1] + b"!", "/page/a.npz": b"<html>moved</html>", "/good/a.npz": payload}
    urls = [f"{server.address}/{mirror}/a.npz" for mirror in ("absent", "wrong", "page", "good")]
    path = fetch(urls, tmp_path / "a.npz", sha256=good, magic=b"PK\x03\x04", **QUICK)
    assert path.read_bytes() == payload
    assert [asked[0] for asked in server.asked] == ["/absent/a.npz", "/wrong/a.npz", "/page/a.npz", "/good/a.npz"]
    with pytest.raises(DataError) as caught:
        fetch(urls[:3], tmp_path / "b.npz", sha256=good, magic=b"PK\x03\x04", hint="Do that.", **QUICK)
    for part in ("404", "checksum", "error page", "Do that."):
        assert part in str(caught.value)
    assert [p.name for p in tmp_path.iterdir() if "part" in p.suffix] == []


def test_the_checksum_of_a_redirect_counts(server, payload, tmp_path):
    server.files["/a.npz"] = payload
    server.linked["/a.npz"] = "0" * 64
    with pytest.raises(DataError, match="checksum"):
        fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK)
    server.linked["/a.npz"] = hashlib.sha256(payload).hexdigest()
    server.cut_after, server.cuts = 1000, 1
    assert fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK).read_bytes() == payload
    assert server.asked[-1] == ("/cdn/a.npz", "bytes=1000-")


def test_a_busy_server_is_asked_again(server, payload, tmp_path):
    server.files["/a.npz"] = payload
    server.statuses = [503, 429]
    assert fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK).read_bytes() == payload
    server.statuses = [503] * 3
    with pytest.raises(DataError, match="503"):
        fetch([f"{server.address}/a.npz"], tmp_path / "b.npz", **QUICK)


def test_a_full_disk_is_said_before_the_first_byte(server, payload, tmp_path, monkeypatch):
    server.files["/a.npz"] = payload
    usage = fetch_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ArtefactError, match="left"):
        fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_is_no_broken_connection(server, payload, tmp_path):
    server.files["/a.npz"] = payload
    (tmp_path / "a.npz.part").symlink_to("/dev/full")
    with pytest.raises(ArtefactError, match="what arrived is kept"):
        fetch([f"{server.address}/a.npz"], tmp_path / "a.npz", **QUICK)
    assert len(server.asked) == 1


def test_a_folder_that_cannot_be_written(server, payload, tmp_path):
    server.files["/a.npz"] = payload
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="Could not write"):
        fetch([f"{server.address}/a.npz"], tmp_path / "file" / "a.npz", **QUICK)


def ogbench_bytes(folder: Path, episodes: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    terminals = np.zeros(episodes * 11, np.float32)
    terminals[10::11] = 1
    np.savez_compressed(
        folder / "x.npz",
        observations=rng.normal(size=(len(terminals), 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (len(terminals), 2)).astype(np.float32),
        terminals=terminals,
    )
    return (folder / "x.npz").read_bytes()


def test_get_data_downloads_imports_and_cleans_up(server, tmp_path, monkeypatch):
    monkeypatch.setenv("STEERFLOW_DATA", str(tmp_path / "data"))
    server.files["/m/cube-single-play-v0.npz"] = ogbench_bytes(tmp_path, 8, 0)
    mirrors = (f"{server.address}/none", f"{server.address}/m")
    hint = "steerflow data make cube-single-play"
    with pytest.raises(DataError, match=f"1 of 2 files are here(.|\n)*{hint}"):
        get_data("cube-single-play-v0", mirrors=mirrors, **QUICK)
    server.files["/m/cube-single-play-v0-val.npz"] = ogbench_bytes(tmp_path, 3, 1)
    server.asked = []
    data = get_data("cube-single-play-v0", mirrors=mirrors, **QUICK)
    # The training file had arrived before.
    assert {asked[0].split("/")[-1] for asked in server.asked} == {"cube-single-play-v0-val.npz"}
    assert data.val is not None
    assert (data.name, data.train.episodes, data.val.episodes) == ("cube-single-play", 8, 3)
    assert not (tmp_path / "data" / ".downloads" / "cube-single-play").exists()
    server.asked = []
    assert get_data("cube-single-play", mirrors=mirrors).train.fingerprint == data.train.fingerprint
    assert server.asked == []


def test_get_data_takes_slices(server, tmp_path):
    for number in range(3):
        for ending in ("", "-val"):
            name = f"/cube-octuple-play-100m-v0/cube-octuple-play-v0-{number:03d}{ending}.npz"
            server.files[name] = ogbench_bytes(tmp_path, 4, number)
    out = tmp_path / "some"
    data = get_data("cube-octuple-play-100m", out=out, mirrors=[server.address], slices=2, keep=True, **QUICK)
    assert data.val is not None
    assert (data.train.episodes, data.val.episodes) == (8, 8)
    assert len(list((tmp_path / ".downloads" / "cube-octuple-play-100m").glob("*.npz"))) == 4


def test_without_network_the_message_says_what_to_do(tmp_path):
    # A reserved name that never resolves, and a port on which nothing listens.
    mirrors = ("http://mirror.invalid/data", "http://127.0.0.1:9/data")
    with pytest.raises(DataError) as caught:
        get_data("scene-play", out=tmp_path / "scene-play", mirrors=mirrors)
    for part in ("mirror.invalid", "127.0.0.1:9", "steerflow data make scene-play", "steerflow data import FILE"):
        assert part in str(caught.value)
    with pytest.raises(DataError) as caught:
        get_data("antmaze-large-navigate", out=tmp_path / "ant", mirrors=mirrors)
    assert "data make" not in str(caught.value)


def test_names(tmp_path):
    assert len(official_names()) == 47
    assert all(mirror.startswith("http") for mirror in MIRRORS)
    with pytest.raises(UnknownNameError, match="Did you mean 'cube-single-play'"):
        get_data("cube-singel-play", out=tmp_path / "x")
    with pytest.raises(DataError, match="pixel"):
        get_data("visual-cube-single-play", out=tmp_path / "x")
    with pytest.raises(UnknownNameError):
        get_data("cube-octuple-play", out=tmp_path / "x")


def test_the_first_mirror_is_the_authors_host():
    from ogbench.utils import DATASET_URL

    assert MIRRORS[0] == DATASET_URL
