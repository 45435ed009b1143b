"""The configuration: draintasker's file is taken unchanged, and nothing that cannot be right is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.drain.config import DrainConfig, ProofKind, TargetKind, config_names, load, parse
from custody.faults import Fault, FaultKind
from custody.units import format_size, parse_size

GIB = 1 << 30

# draintasker's example, its TBDs filled in
SHIPPED = """\
crawljob: wide
job_dir: /n/crawling/wide/warcs
xfer_dir: /n/incoming/wide
sleep_time: 3600
max_size: 10
WARC_naming: 2
block_delay: 120
max_block_count: 120
retry_delay: 86400
description: CRAWLHOST:CRAWLJOB from START_DATE to END_DATE.
operator: crawl-ops@example.org
collections: web/widecrawl/wide00042
title_prefix: Webwide Crawldata
creator: Internet Archive
sponsor: Internet Archive
contributor: Internet Archive
scanningcenter: sanfrancisco
derive: 1
compact_names: 1
"""


def write(directory: Path, text: str, name: str = "wide.yml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_draintasker_s_example_is_taken_unchanged(tmp_path: Path) -> None:
    config = load(str(write(tmp_path, SHIPPED)))
    assert config.target is TargetKind.IAS3
    assert config.max_size == 10 * GIB
    assert config.collections == ("wide00042", "widecrawl", "web")  # leaf first, as they are sent
    assert config.compact_names is True
    assert config.derive is True
    assert (config.sleep_time, config.block_delay, config.max_block_count, config.retry_delay) == (
        3600,
        120,
        120,
        86400,
    )
    assert config.proof is ProofKind.LISTING


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("collections: leaf;mid;top", "collections", ("leaf", "mid", "top")),
        ("collections: [leaf, mid, top]", "collections", ("leaf", "mid", "top")),
        ("collections: top/mid/leaf", "collections", ("leaf", "mid", "top")),
        ("md5sum: 0", "md5sum", False),
        ("md5sum: no", "md5sum", False),
        ("verify_gzip: 0", "verify_gzip", False),
        ("derive: 0", "derive", False),
        ("compact_names: 0", "compact_names", False),
        ("max_size: 0.5", "max_size", GIB // 2),
        ("max_size: 500", "max_size", 500 * GIB),
        ("max_size: 400MB", "max_size", 400_000_000),
        ("max_size: 2 GiB", "max_size", 2 * GIB),
        ("WARC_naming: 1", "warc_naming", "1"),
        ("WARC_naming: zeno", "warc_naming", "zeno"),
        ("WARC_naming: '{prefix}_{timestamp}_{serial}'", "warc_naming", "{prefix}_{timestamp}_{serial}"),
        ("item_naming: '{prefix}-{timestamp14}-{lastserial}'", "item_naming", "{prefix}-{timestamp14}-{lastserial}"),
        ("metadata: {subject: [a, b], scanner: null, year: 2026}", "metadata", None),
        ("xfer_job_dir: /n/incoming/other", "xfer_dir", Path("/n/incoming/other")),
    ],
)
def test_every_way_to_write_a_value(tmp_path: Path, line: str, key: str, value: Any) -> None:
    written = line.split(":")[0]
    replaced = "xfer_dir" if written == "xfer_job_dir" else written
    lines = [one for one in SHIPPED.splitlines() if one.split(":")[0] != replaced]
    config = load(str(write(tmp_path, "\n".join([*lines, line]))))
    assert value is None or getattr(config, key) == value


BAD = [
    ("max_size", 0),
    ("max_size", -5),
    ("max_size", 501),
    ("max_size", "501GiB"),
    ("max_size", "10"),  # GiB or bytes? a text has a unit
    ("max_size", "10 gibi"),
    ("max_size", "ten"),
    ("max_size", "0GB"),
    ("max_size", True),
    ("max_size", float("nan")),
    ("max_size", None),
    ("max_size", [10]),
    ("max_block_count", -1),
    ("max_block_count", "many"),
    ("max_block_count", True),
    ("sleep_time", 0),
    ("sleep_time", "an hour"),
    ("block_delay", -120),
    ("retry_delay", 0),
    ("retry_delay", None),
    ("collections", "TBD/TBD/TBD"),
    ("collections", ["TBD"]),
    ("collections", ""),
    ("collections", "a//b"),
    ("operator", "tbd@archive.org"),
    ("title_prefix", "TBD Crawldata"),
    ("description", "crawl of {describe_effort}"),
    ("crawljob", "wide crawl"),
    ("crawljob", "../wide"),
    ("crawljob", ""),
    ("crawljob", None),
    ("WARC_naming", 3),
    ("WARC_naming", "{prefix}-{timestamp}"),
    ("WARC_naming", "{prefix}-{timestamp}-{serial}-{color}"),
    ("WARC_naming", None),
    ("item_naming", "{prefix} ~ {serial}"),
    ("item_naming", "{prefix}-{hots}"),
    ("item_naming", "{prefix"),
    ("item_naming", ""),
    ("derive", 7),
    ("compact_names", "perhaps"),
    ("md5sum", "sha1"),
    ("target", "ftp"),
    ("proof", "size"),
    ("max_files", 0),
    ("max_files", 10_001),
    ("stable_for_s", -1),
    ("grace_s", -1),
    ("batch_gib", -0.1),
    ("batch_gib", float("nan")),
    ("batch_gib", True),
    ("max_wait_s", -1),
    ("upload_connections", 0),
    ("job_dir", None),
    ("job_dir", "/n/incoming/wide"),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}={value}" for key, value in BAD])
def test_a_bad_value_is_refused_with_the_name_of_its_key(tmp_path: Path, key: str, value: Any) -> None:
    base = load(str(write(tmp_path, SHIPPED)))
    good = {"crawljob": "wide", "job_dir": "/n/crawling/wide/warcs", "xfer_dir": "/n/incoming/wide"}
    good |= {"collections": "a/b", "operator": "me@example.org"}
    assert parse(good, "the test").job_dir == base.job_dir
    with pytest.raises(Fault) as refusal:
        parse(good | {key: value}, "wide.yml")
    assert refusal.value.kind is FaultKind.CONFIG
    assert key in str(refusal.value)
    assert "wide.yml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["max_sise", "DRAINME", "before_packing", "max size", "", "maxsize"])
def test_an_unknown_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(Fault, match="no such key") as refusal:
        load(str(write(tmp_path, f"{SHIPPED}'{key}': 1\n")))
    assert refusal.value.kind is FaultKind.CONFIG


@pytest.mark.parametrize("key", ["crawljob", "job_dir", "xfer_dir"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    text = "\n".join(line for line in SHIPPED.splitlines() if not line.startswith(f"{key}:"))
    with pytest.raises(Fault, match=key if key != "xfer_dir" else "xfer_job_dir|xfer_dir"):
        load(str(write(tmp_path, text)))


def test_target_s3_needs_a_bucket() -> None:
    values = {"crawljob": "a", "job_dir": "/a", "xfer_dir": "/b", "target": "s3"}
    with pytest.raises(Fault, match="bucket"):
        parse(values, "x")
    assert parse(values | {"bucket": "b"}, "x").bucket == "b"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b\n",
        "a: [1",
        "just words",
        "a: !!python/object/apply:os.getcwd []",
        "\x00",
        "1: 2\n",
        "? [a, b]\n: c",
    ],
)
def test_a_file_that_is_no_configuration_is_one_clear_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(Fault) as refusal:
        load(str(write(tmp_path, text)))
    assert refusal.value.kind is FaultKind.CONFIG
    assert "wide.yml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.yml"
    path.write_bytes(SHIPPED.encode() + b"sponsor: K\xe4se\n")
    with pytest.raises(Fault, match="cannot be read"):
        load(str(path))


def test_names_are_found_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUSTODY_CONFIG_DIR", str(tmp_path))
    (tmp_path / "drain").mkdir()
    write(tmp_path / "drain", SHIPPED)
    write(tmp_path / "drain", SHIPPED, ".hidden.yml")
    write(tmp_path, SHIPPED, "outside.yml")
    assert config_names() == ["wide"]
    assert load("wide").crawljob == "wide"
    for name in ("../outside", "narrow", "", ".hidden", "wide.yml/", "a\nb"):
        with pytest.raises(Fault) as refusal:
            load(name)
        assert refusal.value.kind is FaultKind.CONFIG


def test_relative_directories_are_relative_to_the_file(tmp_path: Path) -> None:
    text = SHIPPED.replace("/n/crawling/wide/warcs", "warcs").replace("/n/incoming/wide", "../incoming")
    config = load(str(write(tmp_path, text)))
    assert config.job_dir == tmp_path / "warcs"
    assert config.xfer_dir == tmp_path / "../incoming"


def test_overrides_are_checked_too(tmp_path: Path) -> None:
    path = str(write(tmp_path, SHIPPED))
    assert load(path, {"max_files": 7}).max_files == 7
    with pytest.raises(Fault, match="max_files"):
        load(path, {"max_files": 0})
    with pytest.raises(Fault, match="max_fils"):
        load(path, {"max_fils": 1})


def test_settings_survive_the_ledger(tmp_path: Path) -> None:
    config = load(str(write(tmp_path, SHIPPED)))
    assert DrainConfig.model_validate(config.model_dump(mode="json")) == config


@given(
    st.dictionaries(
        st.sampled_from([*DrainConfig.model_fields, "WARC_naming", "xfer_job_dir", "nonsense"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.lists(st.text(max_size=5), max_size=3)
        | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        max_size=8,
    )
)
def test_any_values_are_a_configuration_or_a_fault(values: dict[str, Any]) -> None:
    good = {"crawljob": "a", "job_dir": "/a", "xfer_dir": "/b", "target": "s3", "bucket": "b"}
    try:
        config = parse(good | values, "x")
    except Fault as fault:
        assert fault.kind is FaultKind.CONFIG
    else:
        assert DrainConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("512b", 512),
        ("1kB", 1000),
        ("1 KiB", 1024),
        ("1.5MB", 1_500_000),
        ("2MiB", 2 << 20),
        ("10GiB", 10 << 30),
        ("3tb", 3 * 10**12),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e3", "1 G B", "1GB 2", "0", "0.4", "٣GB", "1gb\n2", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|byte"):
        parse_size(text)


@given(st.integers(0, 10**15))
def test_a_size_for_people_is_near_the_size(size_bytes: int) -> None:
    number, unit = format_size(size_bytes).split(" ")
    factor = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit]
    assert float(number) * factor == pytest.approx(size_bytes, rel=0.006)
