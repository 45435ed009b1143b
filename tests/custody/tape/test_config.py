"""tape.conf: tapeop's is accepted unchanged, everything else is checked before the drive is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from custody.faults import Fault, FaultKind
from custody.tape.config import Encryption, Fit, config_names, load, parse

TAPEOP = """[default]
database_file = run1.sqlite
tape_device = /dev/nst0
ssh_command = ssh user@my-data-host -i /home/user/.ssh/unlocked_key
"""


def test_the_file_of_tapeop_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tape.conf"
    path.write_text(TAPEOP)
    config = load(str(path))
    assert config.device == "/dev/nst0"
    assert config.database_file == tmp_path / "run1.sqlite"
    assert config.ssh_command == "ssh user@my-data-host -i /home/user/.ssh/unlocked_key"
    assert (config.name, config.pools, config.block_size, config.fit) == ("tape", ("default",), 1 << 20, Fit.TRY)


def test_a_file_from_another_system_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "tape.conf"
    path.write_bytes(b"\xef\xbb\xbf" + TAPEOP.replace("\n", "\r\n").encode())
    config = load(str(path))
    assert config.ssh_command == "ssh user@my-data-host -i /home/user/.ssh/unlocked_key"
    assert config.device == "/dev/nst0"
    path.write_bytes(b"[default]\ntape_device = /d\xe9v\n")
    with pytest.raises(Fault, match=r"tape\.conf: cannot be read"):
        load(str(path))


def test_an_emulator_of_tapeop_is_a_virtual_drive(tmp_path: Path) -> None:
    config = parse("[default]\nemulator_dir = vtape\ndatabase_file = x\n", "tape.conf", base=tmp_path)
    assert config.device == str(tmp_path / "vtape")


def test_a_pool_has_values_of_its_own_and_the_common_ones() -> None:
    text = (
        "[default]\npools = onsite, offsite\ncapacity = 6TB\n[pool offsite]\nencryption = required\ncapacity = 2.5TB\n"
    )
    config = parse(text, "tape.conf")
    assert config.of_pool("onsite").capacity == 6 * 10**12
    assert config.of_pool("onsite").encryption is Encryption.ANY
    assert config.of_pool("offsite").capacity == 25 * 10**11
    assert config.of_pool("offsite").encryption is Encryption.REQUIRED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no .default. section"),
        ("tape_device = /dev/nst0\n", "is no tape.conf"),
        ("[default]\ntape_devise = /dev/nst0\n", "tape_devise: no such key"),
        ("[default]\n[other]\n", "other.*no such section"),
        ("[default]\nblock_size = 1000\n", "block_size: is a multiple of 512"),
        ("[default]\nblock_size = 32MiB\n", "block_size: is a multiple of 512 and at most 16MiB"),
        ("[default]\nbuffer = 1MiB\n", "buffer holds at least 4 blocks"),
        ("[default]\ndigests = crc32\n", "digests: are any of md5"),
        ("[default]\ndigests = sha1\n", "at least md5 or sha256"),
        ("[default]\npools = a, a\n", "pools: names at least one pool, each once"),
        ("[default]\n[pool offsite]\n", "pool offsite. is not among pools"),
        ("[default]\nfit = maybe\n", "fit:"),
        ("[default]\nssh_command = ssh a\nssh_connection = b\n", "ssh_command and ssh_connection are both set"),
        ("[default]\ntape_device = /dev/\0nst0\n", "zero byte"),
        ("[default]\ntape_device = a\ntape_device = b\n", "tape_device.*already exists"),
        ("[default]\ncapacity = lots\n", "capacity: .*lots"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises(Fault, match=f"tape.conf: .*{said}") as caught:
        parse(text, "tape.conf")
    assert caught.value.kind is FaultKind.CONFIG
    assert "\n" not in str(caught.value)


def test_names_of_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path))
    (tmp_path / "tape").mkdir()
    for name in ("lto", "example-lto"):
        (tmp_path / "tape" / f"{name}.conf").write_text(TAPEOP)
    assert config_names() == ["lto"]
    assert load("lto").name == "lto"
    with pytest.raises(Fault, match="configuration none: is not there; there are: lto"):
        load("none")
    with pytest.raises(Fault, match="is no name of a configuration"):
        load("../lto")
