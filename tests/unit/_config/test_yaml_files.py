"""Tests that every YAML document ends in a set or in an error with its place."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from tbx_callbacks import ConfigError, load_config
from tbx_callbacks._config.bundled import bundled_folder
from tbx_callbacks._config.rule_options import load_rules
from tbx_callbacks._config.yaml_files import MAX_BYTES, MAX_DIGITS, MAX_LEVELS, MAX_VALUES, read_yaml
from tbx_callbacks._extensions import without_imports
from tests.helpers.hostile_yaml import NASTY, ODD_VALID, mutated

LONGEST = 1200
"""Characters of a message; the longest lists all rules."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_ends(path: Path) -> list[bool]:
    """Loads a file in both ways; returns whether each of them gave a value."""
    values, words = list[bool](), list[str]()
    for load in (load_config, load_rules):
        try:
            load(path)
            values.append(True)
        except ConfigError as error:
            values.append(False)
            words.append(str(error))
    assert [text for text in words if not text.startswith(path.name) or len(text) >= LONGEST] == []
    return values


@pytest.mark.parametrize("name", NASTY)
def test_nasty_document_ends_in_short_error(here: Path, name: str) -> None:
    path = here / "nasty.yaml"
    path.write_text(NASTY[name], encoding="utf-8")
    assert check_ends(path)[0] is False
    assert os.listdir() == ["nasty.yaml"]


@pytest.mark.parametrize("name", ODD_VALID)
def test_odd_valid_document_loaded(here: Path, name: str) -> None:
    (here / "odd.yaml").write_text(ODD_VALID[name], encoding="utf-8")
    assert "loss" in {item.name for item in load_config(here / "odd.yaml").items}


PLACES = [
    ("metrics: [loss]\nevery: 2001-99-99\n", "line 2, column 8 must be valid YAML: '2001-99-99' is no valid timestamp"),
    ("a: 1\nb: [lo\0ss]\n", "line 2, column 7 must be valid YAML: special characters are not allowed"),
    (f"a: {'[' * 50}", f"line 1, column {3 + MAX_LEVELS} must be valid YAML: it must hold at most {MAX_LEVELS} values"),
    (f"a:\n  b: {'1' * (MAX_DIGITS + 1)}", f"line 2, column 6 .* numbers of at most {MAX_DIGITS} characters"),
    (f"a: [{'1, ' * MAX_VALUES}]", f"line 1, column 4 .* at most {MAX_VALUES:,} values"),
    ("a: &a [1]\nb: &b [*b]\n", "line 2, column 8 .* no value that contains itself"),
    ("? [x]\n: 1", r"line 1, column 3 .* a key must be a text, got \['x'\]"),
    ('- "\\U00110000"', "line 1, column 6 .* chr"),
    ("2001-01-01: 1\n2001-01-01: 2", "line 2, column 1 .* is given twice"),
]


@pytest.mark.parametrize(("text", "words"), PLACES, ids=[words[:24] for _, words in PLACES])
def test_error_names_line_and_column(here: Path, text: str, words: str) -> None:
    (here / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^a\.yaml: {words}"):
        read_yaml("a.yaml", "a metric set")


ENCODINGS = [
    (b"a: 1\nb: [\xff]\n", "line 2, column 5: invalid start byte"),
    ("metrics: [loss]".encode("utf-16"), "line 1, column 1: invalid start byte"),
    ("a: é\nb: é".encode() + b"\xe9", r"line 2, column 6: unexpected end of data"),
]


@pytest.mark.parametrize(("data", "words"), ENCODINGS, ids=[words for _, words in ENCODINGS])
def test_other_encoding_names_place(here: Path, data: bytes, words: str) -> None:
    (here / "a.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=f"a metric set must be a readable UTF-8 file: {words}"):
        load_config("a.yaml")


def test_limits_allow_what_they_say(here: Path) -> None:
    fits = [
        "[" * MAX_LEVELS + "]" * MAX_LEVELS,
        f"[{'1,' * (MAX_VALUES - 1)}]",
        f"a: {'1' * MAX_DIGITS}",
        "#" * MAX_BYTES,
        f"a: &a [{'1,' * 100}]\nb: [{'*a,' * 190}]",
    ]
    for text in fits:
        (here / "a.yaml").write_text(text)
        read_yaml("a.yaml", "a metric set")


def test_path_of_no_regular_file_refused(here: Path) -> None:
    os.mkfifo("pipe.yaml")  # a reader of it waits for ever
    os.mkdir("folder.yaml")
    os.symlink("loop.yaml", "loop.yaml")
    os.symlink("nowhere", "dangling.yaml")
    os.symlink("pipe.yaml", "link.yaml")
    reasons = {
        "pipe.yaml": "is no regular file",
        "link.yaml": "is no regular file",
        "folder.yaml": "is a folder",
        "loop.yaml": "cannot be read: .*symbolic links",
        "dangling.yaml": "does not exist",
        "gone.yaml": "does not exist",
        "gone/a.yaml": "does not exist",
        "pipe.yaml/a.yaml": "does not exist",
        "a\0b.yaml": "cannot be read: .*null byte",
        "n" * 300 + ".yaml": "cannot be read: .*File name too long",
        "~nosuchuser/a.yaml": "does not exist",
        "\ud800.yaml": "cannot be read: .*surrogates not allowed",
    }
    for path, reason in reasons.items():
        for load in (load_config, load_rules):
            with pytest.raises(ConfigError, match=reason) as raised:
                load(path)
            assert len(str(raised.value)) < LONGEST


def test_unreadable_permission_named(here: Path) -> None:
    (here / "a.yaml").write_text("metrics: [loss]")
    here.chmod(0o755)
    (here / "a.yaml").chmod(0)
    user, folder = os.geteuid(), bundled_folder("configs")
    if user == 0:
        os.seteuid(65534)
    try:
        if not os.access(folder, os.R_OK, effective_ids=True):
            pytest.skip("the package lies in a folder of root, which no other user can read")
        with pytest.raises(ConfigError, match=r"Permission denied|cannot be read"):
            load_config("a.yaml")
    finally:
        os.seteuid(user)


def test_long_chain_of_sets_refused(here: Path) -> None:
    for number in range(500):
        (here / f"s{number}.yaml").write_text(f"extends: s{number + 1}.yaml\n")
    with pytest.raises(ConfigError, match="extends must name at most 20 sets one after the other"):
        load_config("s0.yaml")


MERGES = [
    "{x: &g {<<: &d {<<: &e {a: 1, b: 2}, b: 3}, b: 4}, y: *d, z: *g}",
    "{x: &g {<<: &d {<<: &e {a: 1, b: 2}, b: 3}, b: 4}, y: *d, z: {<<: *g, a: 5}}",
    "{x: {<<: &d {<<: &e {a: 1}, a: 2}}, y: {<<: *d, a: 3}, z: *e}",
    "{x: {<<: [&d {<<: {a: 1}, a: 2}, &e {a: 3, <<: {a: 4}}]}, y: *e, z: *d}",
    "{x: &d {a: 1}, y: &e {<<: *d, a: 2}, z: {<<: [*e, *d], a: 3}, w: [*d, *e]}",
    "{x: &d {<<: {<<: {<<: {a: 1}, a: 2}, a: 3}, a: 4}, y: {<<: *d}, z: *d}",
    "{x: {<<: &d {=: 1, <<: {=: 2}}}, y: *d}",
    "[&d {<<: &e {a: 1, b: [1]}, a: 2}, *e, *d, {<<: *d}, {<<: *e, b: 1}]",
]


@pytest.mark.parametrize("text", MERGES)
def test_merges_mean_what_pyyaml_says(here: Path, text: str) -> None:
    (here / "a.yaml").write_text(text)
    assert read_yaml("a.yaml", "a set") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{x: {<<: {a: 1, a: 2}}}", "line 1, column 17 must be valid YAML: key 'a' is given twice"),
        ("{x: {<<: &d {<<: {a: 1, a: 2}}}, y: *d}", "key 'a' is given twice"),
        ("{x: {<<: [{b: 1}, {a: 1, a: 2}]}}", "key 'a' is given twice"),
        ("{x: {<<: {a: 1}, <<: {b: 1}}}", "key << is given twice"),
        ("{x: {<<: {<<: {a: 1}, <<: {b: 1}}}}", "key << is given twice"),
        ("{x: &d {<<: {a: 1}, a: 2, a: 3}, y: *d}", "key 'a' is given twice"),
        ("{x: {<<: {[1]: 2}}}", "a key must be a text"),
    ],
)
def test_merges_duplicate_key_still_refused(here: Path, text: str, words: str) -> None:
    (here / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_yaml("a.yaml", "a set")


def test_values_of_mappings_cut_in_messages() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    keys = ("every", "strict", "axis", "best", "rules", "writers", "metrics", "overhead_budget", "unknown")
    for value in (10**5000, nested, "x" * 10**7, [0] * 10**6, {n: n for n in range(10**5)}):
        for key in keys:
            with pytest.raises(ConfigError) as raised:
                load_config(
                    {"metrics": ["loss"], key: value} if key != "every" else {"metrics": ["loss"], key: [value]}
                )
            assert len(str(raised.value)) < LONGEST
    with pytest.raises(ConfigError, match="an integer of about 5001 digits must be a known key"):
        load_config({10**5000: 1})


def run_mutations(folder: Path, seeds: range) -> tuple[int, int]:
    """Loads changed documents, without their code; returns how many gave a set, and how many an error."""
    path, loaded = folder / "mutated.yaml", 0
    for seed in seeds:
        path.write_bytes(mutated(seed))
        try:
            with without_imports():
                loaded += check_ends(path)[0]
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    return loaded, len(seeds) - loaded


@pytest.mark.slow
def test_mutated_documents_end_sample(here: Path) -> None:
    loaded, refused = run_mutations(here, range(300))
    assert loaded > 10
    assert refused > 100


@pytest.mark.slow
@pytest.mark.thorough
def test_mutated_documents_end_in_value_or_error(here: Path) -> None:
    loaded, refused = run_mutations(here, range(1_000, 3_000))
    assert loaded > 100
    assert refused > 500


def test_docs_state_the_limits() -> None:
    text = re.sub(r"\s+", " ", (Path(__file__).parents[3] / "docs" / "reliability.md").read_text(encoding="utf-8"))
    for limit in (
        f"{MAX_BYTES // 1024} KiB",
        f"{MAX_VALUES:,} values",
        f"{MAX_LEVELS} levels",
        f"{MAX_DIGITS} characters",
    ):
        assert limit in text
