"""The viewer: nine commands, a state for each user, and pages by pywb in a real browser."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.testclient import TestClient

from bitarchive_samples import PAGES, arc_record, http, sample, version_block, write_sample
from bitarchive_site import FILES, Site, make_site
from custody.bitarchive import catalogue
from custody.bitarchive.viewer import COMMAND_HOSTS, server
from custody.bitarchive.viewer.app import make_app
from custody.bitarchive.viewer.authority import Authority
from custody.bitarchive.viewer.commands import Commands
from custody.faults import Fault
from empty_ledger import new_ledger

HOST = sorted(COMMAND_HOSTS)[0]
RETURN = {"returnURL": "http://qa.example/page?x=1"}


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    """A browser that uses the viewer as its proxy; there is no pywb behind it."""
    commands = Commands(site.archive, site.root / "viewer", "http://replay")
    with TestClient(make_app(commands, "http://127.0.0.1:9"), f"http://{HOST}", follow_redirects=False) as made:
        yield made


def status(client: TestClient, **kwargs: Any) -> str:
    return str(client.get("/getStatus", **kwargs).text)


def test_recording_is_switched_listed_and_cleared(client: TestClient) -> None:
    assert "Recording of missing URIs is off." in status(client)
    for command in ("startRecordingURIs", "stopRecordingURIs", "clearRecordedURIs"):
        answer = client.get(f"/{command}", params=RETURN)
        assert (answer.status_code, answer.headers["location"]) == (303, RETURN["returnURL"])
    client.get("/startRecordingURIs", params=RETURN)
    assert "Recording of missing URIs is on." in status(client)
    for url in ("http://z.example/b?c=d", "http://a.example/", "http://a.example/"):
        answer = client.get(url)
        assert answer.status_code == 404
        assert f"Can't find URL: {url}" in answer.text
    listed = client.get("/getRecordedURIs")
    assert (listed.status_code, listed.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert listed.text == "http://a.example/\nhttp://z.example/b?c=d\n"
    client.get("/stopRecordingURIs", params=RETURN)
    client.get("http://not.noted.example/")
    assert "2 missing URIs are recorded." in status(client, params={"locale": "en"})
    client.get("/clearRecordedURIs", params=RETURN)
    assert client.get("/getRecordedURIs").text == ""


def test_an_index_is_chosen_and_a_partial_one_says_so(client: TestClient) -> None:
    answer = client.get("/changeIndex", params={"jobID": ["1", "2"], "label": "both", **RETURN})
    assert answer.status_code == 303
    assert "Index 'both' of jobs 1, 2.\nReplay: http://replay/1-2-" in status(client)
    client.get("/changeIndex", params={"jobID": ["2", "77"], "label": "some", **RETURN})
    assert "PARTIAL: asked for jobs 2, 77; there is no data of jobs 77." in status(client)
    answer = client.get("/changeIndex", params={"jobID": "77", "label": "none", **RETURN})
    assert (answer.status_code, "job 77: has no content files" in answer.text) == (500, True)
    assert "Index 'some'" in status(client)


def test_two_users_have_two_states(client: TestClient) -> None:
    ada, bob = ({"Proxy-Authorization": httpx.BasicAuth(name, "x")._auth_header} for name in ("ada", "bob"))
    client.get("/changeIndex", params={"jobID": "1", "label": "hers", **RETURN}, headers=ada)
    client.get("/startRecordingURIs", params=RETURN, headers=ada)
    client.get("http://missing.example/", headers=bob)
    client.get("http://gone.example/", headers=ada)
    assert "Index 'hers'" in status(client, headers=ada)
    assert "No index is chosen" in status(client, headers=bob)
    assert client.get("/getRecordedURIs", headers=ada).text == "http://gone.example/\n"
    assert client.get("/getRecordedURIs", headers=bob).text == ""


def test_files_come_whole_or_in_ranges(client: TestClient, site: Site) -> None:
    content = site.path(FILES[0]).read_bytes()
    answer = client.get("/getFile", params={"arcFile": FILES[0]})
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-disposition"] == f'attachment; filename="{FILES[0]}"'
    for text, start, end in (("bytes=10-19", 10, 20), ("bytes=100-", 100, None), ("bytes=-7", len(content) - 7, None)):
        answer = client.get("/getFile", params={"arcFile": FILES[0]}, headers={"Range": text})
        assert (answer.status_code, answer.content) == (206, content[start:end])
    for text in (f"bytes={len(content)}-", "bytes=5-2", "bytes=x", "lines=1-2", "bytes=1-2,4-5", "bytes=-0"):
        assert client.get("/getFile", params={"arcFile": FILES[0]}, headers={"Range": text}).status_code == 416
    assert client.head("/getFile", params={"arcFile": FILES[0]}).headers["content-length"] == str(len(content))


def test_records_and_metadata_come_with_every_byte(client: TestClient, site: Site) -> None:
    extents = sample(site.root / "again" / FILES[0]).extents
    answer = client.get("/getRecord", params={"arcFile": FILES[0], "arcOffset": extents[2][0]})
    assert (answer.status_code, answer.content) == (200, http(*PAGES[1][1:]))
    records = [version_block("5-metadata-1.arc"), arc_record("metadata://x/y", bytes(range(256)), mime="x/y")]
    path = write_sample(site.root / "two" / "filedir" / "5-metadata-1.arc", records).path
    catalogue.adopt(site.archive, site.archive.config.replica("ONE"), who="test")
    assert client.get("/getMetadata", params={"jobID": "5"}).content == path.read_bytes()


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ("unknownCommand", 404, "Unknown command 'unknownCommand'"),
        ("", 404, "Unknown command"),
        ("startRecordingURIs", 400, "parameter returnURL is missing"),
        ("startRecordingURIs?returnURL=a&returnURL=b", 400, "given more than once"),
        ("startRecordingURIs?returnURL=javascript:alert(1)", 400, "is no http address"),
        ("startRecordingURIs?returnURL=//evil.example/", 400, "is no http address"),
        ("startRecordingURIs?returnURL=http://a/%0d%0aSet-Cookie:x", 400, "is no http address"),
        ("changeIndex?label=x&returnURL=/", 400, "parameter jobID is missing"),
        ("changeIndex?jobID=1x&label=x&returnURL=/", 400, "parameter jobID is no number: '1x'"),
        ("changeIndex?jobID=1&returnURL=/", 400, "parameter label is missing"),
        ("getFile", 400, "parameter arcFile is missing"),
        ("getFile?arcFile=none.warc", 404, "the archive has no such file"),
        ("getFile?arcFile=../one/filedir/a-1.warc.gz", 404, "is no name of an archive file"),
        ("getFile?arcFile=/etc/passwd", 404, "is no name of an archive file"),
        ("getFile?arcFile=a-1.warc.gz&arcFile=b-2.arc", 400, "given more than once"),
        ("getRecord?arcFile=a-1.warc.gz", 400, "parameter arcOffset is missing"),
        ("getRecord?arcFile=a-1.warc.gz&arcOffset=-1", 400, "is no number"),
        ("getRecord?arcFile=a-1.warc.gz&arcOffset=99999999999999999999", 400, "is no number"),
        ("getRecord?arcFile=a-1.warc.gz&arcOffset=99999", 404, "is past the end"),
        ("getRecord?arcFile=a-1.warc.gz&arcOffset=1", 404, "no record begins there; the nearest that do: 0"),
        ("getMetadata?jobID=999", 404, "No metadata found for job 999"),
        ("getMetadata?jobID=.*", 400, "is no number"),
        ("getStatus?locale=a&locale=b", 400, "given more than once"),
        ("getStatus?other=1", 400, "is not known here"),
    ],
)
def test_what_is_asked_wrongly_is_answered_in_one_line(client: TestClient, query: str, code: int, said: str) -> None:
    start = time.monotonic()
    answer = client.get(f"/{query}")
    assert time.monotonic() - start < 10
    assert (answer.status_code, said in answer.text) == (code, True), answer.text
    assert answer.text.count("\n") == 1
    assert "Traceback" not in answer.text


def test_a_url_on_the_page_of_what_is_missing_is_text(client: TestClient) -> None:
    answer = client.get('http://a.example/?"<script>alert(1)</script>')
    assert "<script>" not in answer.text


def test_what_is_missing_comes_out_as_a_seed_list(
    client: TestClient, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from custody.bitarchive.archive import Archive
    from custody.cli.bitarchive_viewer import viewer as command

    headers = {"Proxy-Authorization": httpx.BasicAuth("ada", "x")._auth_header}
    client.get("/startRecordingURIs", params=RETURN, headers=headers)
    for url in ("http://z.example/", "http://a.example/?q=1"):
        client.get(url, headers=headers)
    shutil.copytree(site.root / "viewer", server.home_of(site.archive))
    monkeypatch.setattr(Archive, "open", classmethod(lambda *_: site.archive))
    answer = CliRunner().invoke(command, ["news", "--seeds", "name:ada"])
    assert (answer.exit_code, answer.output) == (0, "http://a.example/?q=1\nhttp://z.example/\n")


def test_state_survives_a_restart(site: Site) -> None:
    for expected in ("No index is chosen", "Index 'kept' of jobs 1."):
        commands = Commands(site.archive, site.root / "viewer", "http://replay")
        with TestClient(make_app(commands, "http://127.0.0.1:9"), f"http://{HOST}", follow_redirects=False) as made:
            assert expected in status(made)
            made.get("/changeIndex", params={"jobID": "1", "label": "kept", **RETURN})


@pytest.fixture(scope="session")
def pywb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pywb's program, in an environment of its own, made from its own lock."""
    named = os.environ.get("CUSTODY_PYWB") or shutil.which("wayback")
    try:
        return Path(named) if named else server.install_pywb(tmp_path_factory.mktemp("pywb") / "env")
    except Fault as fault:
        pytest.skip(f"pywb cannot be installed here: {fault}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Viewer:
    """Both servers."""

    port: int
    pywb_port: int

    @property
    def url(self) -> str:
        """Of the commands."""
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def viewer(pywb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    """The viewer as people start it: one command. Started once: every user of it has a state of their own."""
    tmp_path = tmp_path_factory.mktemp("viewer")
    site = make_site(tmp_path / "archive", new_ledger(f"sqlite:///{tmp_path}/ledger.sqlite"))
    made = Viewer(free_port(), free_port())
    config = tmp_path / "config" / "bitarchive" / "news.yml"
    config.parent.mkdir(parents=True)
    config.write_text(yaml.safe_dump(site.archive.config.model_dump(mode="json")))
    env = os.environ | {"CUSTODY_LEDGER": site.archive.ledger.url, "CUSTODY_CONFIG_DIR": str(tmp_path / "config")}
    argv = [sys.executable, "-m", "custody.cli", "bitarchive", "viewer", "news"]
    argv += ["--port", str(made.port), "--pywb-port", str(made.pywb_port)]
    process = subprocess.Popen(argv, env=env | {"CUSTODY_PYWB": str(pywb)}, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                httpx.get(f"{made.url}/getStatus", trust_env=False)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        yield made
    finally:
        process.terminate()
        process.wait(20)
    with pytest.raises(httpx.HTTPError):  # what it started is gone with it
        httpx.get(f"http://127.0.0.1:{made.pywb_port}/", trust_env=False)


def choose(viewer: Viewer, *jobs: int) -> None:
    params = {"jobID": jobs, "label": "sample", "returnURL": "/getStatus"}
    answer = httpx.get(f"{viewer.url}/changeIndex", params=params, trust_env=False)
    assert answer.status_code == 303, answer.text


def believing(viewer: Viewer, directory: Path) -> ssl.SSLContext:
    """A browser that was told to believe the viewer's authority, and nobody else."""
    path = directory / "certificate.pem"
    path.write_bytes(httpx.get(f"{viewer.url}/certificate.pem", trust_env=False).content)
    return ssl.create_default_context(cafile=str(path))


@pytest.mark.slow
def test_pages_are_replayed_by_pywb_on_our_index(viewer: Viewer, tmp_path: Path) -> None:
    choose(viewer, 1, 2)
    with httpx.Client(proxy=viewer.url, trust_env=False, verify=believing(viewer, tmp_path)) as browser:
        for url, mime, body in PAGES:
            answer = browser.get(url)
            assert (answer.status_code, answer.content) == (200, body), url
            assert answer.headers["content-type"].startswith(mime)
        assert browser.get("http://www.museum.example/none").status_code == 404
        said = browser.get(f"http://{HOST}/getStatus").text
    replay = said.split("Replay: ")[1].strip()
    page = httpx.get(f"{replay}20260102100000mp_/http://www.museum.example/", trust_env=False)
    assert (page.status_code, "<h1>museum</h1>" in page.text) == (200, True)


@pytest.mark.slow
def test_an_https_host_is_the_viewer_itself_for_everyone_on_their_own(viewer: Viewer, tmp_path: Path) -> None:
    context = believing(viewer, tmp_path)
    found = {}
    for name in ("ada", "bob"):
        proxy = httpx.Proxy(viewer.url, auth=(name, "x"))
        with httpx.Client(proxy=proxy, trust_env=False, verify=context) as browser:
            if name == "ada":
                browser.get(f"https://{HOST}/startRecordingURIs?returnURL=/")
            assert browser.get("https://lost.example/a?b").status_code == 404
            assert browser.get("https://[2001:db8::1]/").status_code == 404
            found[name] = browser.get(f"https://{HOST}/getRecordedURIs").text
            assert "unknown" in browser.get(f"https://{HOST}/none").text.lower()
    assert found == {"ada": "https://[2001:db8::1]/\nhttps://lost.example/a?b\n", "bob": ""}
    with httpx.Client(proxy=viewer.url, trust_env=False) as stranger, pytest.raises(httpx.ConnectError, match="CERT"):
        stranger.get("https://lost.example/")
    for head in (b"CONNECT / HTTP/1.1\r\n\r\n", b"CONNECT a b HTTP/1.1\r\n\r\n", b"CONNECT " + b"a" * 20_000):
        with socket.create_connection(("127.0.0.1", viewer.port), timeout=10) as raw:
            raw.sendall(head)
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{viewer.url}/getStatus", trust_env=False).status_code == 200


def test_the_authority_stays_over_a_restart_and_its_key_is_nobody_s(tmp_path: Path) -> None:
    one = Authority(tmp_path / "ca")
    again = Authority(tmp_path / "ca")
    assert one.certificate_path.read_bytes() == again.certificate_path.read_bytes()
    assert stat.S_IMODE((tmp_path / "ca" / "key.pem").stat().st_mode) == 0o600
    (tmp_path / "ca" / "key.pem").write_text("no key")
    with pytest.raises(Fault, match=r"is damaged. Next: rm -r"):
        Authority(tmp_path / "ca")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_real_browser_shows_a_page_and_what_is_missing_is_recorded(viewer: Viewer, tmp_path: Path) -> None:
    choose(viewer, 1, 2)
    pem = httpx.get(f"{viewer.url}/certificate.pem", trust_env=False).content
    key = x509.load_pem_x509_certificate(pem).public_key()
    public = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(public).digest()).decode()  # the browser believes whom this key vouches for

    def browse(url: str) -> str:
        argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        argv += [f"--user-data-dir={tmp_path / 'profile'}", f"--proxy-server=127.0.0.1:{viewer.port}"]
        argv += [f"--ignore-certificate-errors-spki-list={pin}"]
        argv += ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--dump-dom", url]
        done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
        return done.stdout.decode("utf-8", "replace")

    assert "<h1>museum</h1>" in browse("http://www.museum.example/")
    assert "WARC/0.9 is not here" in browse("https://archive.example/list.txt")
    httpx.get(f"{viewer.url}/startRecordingURIs", params={"returnURL": "/"}, trust_env=False)
    assert "Can't find URL: http://www.museum.example/lost" in browse("http://www.museum.example/lost")
    recorded = httpx.get(f"{viewer.url}/getRecordedURIs", trust_env=False).text
    assert "http://www.museum.example/lost" in recorded.splitlines()
