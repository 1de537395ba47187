"""Where Fashion-MNIST is found, and how it is fetched: from a web server of the test's own, with real files."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from idx_files import NAMES, write_mnist
from requirements import require

from luthier import data
from luthier.errors import DataError


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of Fashion-MNIST, found before ``nowhere`` hides it."""
    return Path(require("fashion-mnist"))


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """A machine without Fashion-MNIST; returns the cache that a download would fill."""
    monkeypatch.delenv("LUTHIER_DATA", raising=False)
    monkeypatch.delenv("LUTHIER_DATA_URL", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "FASHION_PACKAGE", tmp_path / "not-installed")
    return tmp_path / "cache" / "luthier" / "fashion-mnist"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        self.server.requests.append(format % args)  # type: ignore[attr-defined]


class BreakingHandler(Handler):
    """Promises a whole file and hangs up after half of it."""

    def do_GET(self):
        body = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])


@contextmanager
def serve(folder: Path, handler: type[Handler] = Handler) -> Iterator[tuple[str, list[str]]]:
    """A web server of ``folder``; gives its address and the list of requests that it has seen."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        server.requests = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", server.requests  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


# --- where Fashion-MNIST is found


def test_luthier_data_comes_first(real, nowhere, tmp_path, monkeypatch):
    """It is read where LUTHIER_DATA says, and another data set under the same names is not taken for it."""
    write_mnist(tmp_path / "own")
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path / "own"))
    with pytest.raises(DataError, match=r"SHA-256 .* not the official") as caught:
        data.fashion_mnist()
    assert caught.value.where == str(tmp_path / "own" / NAMES[0])
    (tmp_path / "own" / "fashion-mnist").symlink_to(real)
    assert len(data.fashion_mnist(train=10).train) == 10
    assert len(data.fashion_mnist(train=10, folder=tmp_path / "own" / "fashion-mnist").train) == 10


def test_luthier_data_is_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match="is not a folder"):
        data.fashion_mnist()


# --- the download


def test_download_fills_the_cache_once(real, nowhere, monkeypatch, capsys):
    with serve(real) as (url, requests):
        monkeypatch.setenv("LUTHIER_DATA_URL", url)
        first = data.fashion_mnist(train=100)
        assert sorted(path.name for path in nowhere.iterdir()) == sorted(NAMES)
        again = data.fashion_mnist(train=100)
        assert len(requests) == 4 and "train-images" in capsys.readouterr().err
        (nowhere / NAMES[3]).unlink()  # only what is missing is fetched
        data.fashion_mnist(train=100, url=url)
        assert len(requests) == 5
    assert torch.equal(first.train.inputs, again.train.inputs) and len(first.test) == 10_000


def test_download_with_a_wrong_checksum(nowhere, tmp_path):
    write_mnist(tmp_path / "served")
    with serve(tmp_path / "served") as (url, _), pytest.raises(DataError, match="SHA-256") as caught:
        data.fashion_mnist(url=url)
    assert caught.value.where == url + NAMES[0] and not nowhere.exists()


def test_download_that_breaks_off(nowhere, tmp_path):
    write_mnist(tmp_path / "served")
    with serve(tmp_path / "served", BreakingHandler) as (url, _), pytest.raises(DataError, match="broke off") as caught:
        data.fashion_mnist(url=url)
    assert "apt-get install dataset-fashion-mnist" in str(caught.value) and not nowhere.exists()


def test_download_of_a_missing_file_and_from_no_server(nowhere, tmp_path):
    with serve(tmp_path) as (url, _), pytest.raises(DataError, match="404"):
        data.fashion_mnist(url=url)
    with pytest.raises(DataError, match="download failed") as caught:  # the server is down now
        data.fashion_mnist(url=url)
    assert caught.value.where == url + NAMES[0] and "LUTHIER_DATA" in caught.value.remedy
    with pytest.raises(DataError, match="download failed"):
        data.fashion_mnist(url="nonsense")
    assert not nowhere.exists()


def test_download_onto_a_full_disk_leaves_nothing(real, nowhere, monkeypatch):
    """A limit on the size of files gives the same kind of error, in the middle of the write, as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serve(real) as (url, _):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        try:
            with pytest.raises(DataError, match="26421856 bytes cannot be written") as caught:
                data.fashion_mnist(url=url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.where == str(nowhere / NAMES[0]) and list(nowhere.iterdir()) == []


def test_cache_that_cannot_be_made(real, nowhere, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with serve(real) as (url, _), pytest.raises(DataError, match="cannot be written"):
        data.fashion_mnist(url=url)
