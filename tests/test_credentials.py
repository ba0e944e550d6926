"""Credentials in text, names and logs; characters that a terminal would obey."""

from __future__ import annotations

import io
import logging
import unicodedata

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.credentials import holds_credentials, is_secret_name, mask, mask_logs
from transforms.messages import plain, shape_text, shown


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://token@host/x", "https://***@host/x"),
        ("FTP://me@host", "FTP://***@host"),
        ("redis://:pw@host:6379/0", "redis://***@host:6379/0"),
        ("a s3://k:s@b and gs://u:p@c", "a s3://***@b and gs://***@c"),
        ("https://h/a?sig=x1&se=2", "https://h/a?sig=***&se=2"),
        (
            "https://h/a?b=1&X-Goog-Signature=ab#f",
            "https://h/a?b=1&X-Goog-Signature=***#f",
        ),
        ("?AWSAccessKeyId=AK&key=k&page=2", "?AWSAccessKeyId=***&key=***&page=2"),
        ("?apikey=k&page=2", "?apikey=***&page=2"),
        ("AccountKey=abc;EndpointSuffix=x", "AccountKey=abc;EndpointSuffix=x"),
        ("account_key=abc, next", "account_key=***, next"),
        ("https://h/a?api_key=k&page=2#f", "https://h/a?api_key=***&page=2#f"),
        ("?a=1&private_key=k&page=2", "?a=1&private_key=***&page=2"),
        ("Server=x;Password=a&b;Port=1", "Server=x;Password=***;Port=1"),
        ("password='two words", "password=***"),
        ("password=a&b c", "password=*** c"),
        ("password=x password=y", "password=*** password=***"),
        ("s3://k:s@b/a@c and s3://k:s@b", "s3://***@b/a@c and s3://***@b"),
        ("https://h/?next=http://x?sig=a", "https://h/?next=http://x?sig=***"),
        ('{"private_key": "-----BEGIN x"}', '{"private_key": ***}'),
        ("password: two words", "password: *** words"),
        ("authorization: basic QWxhZGRpbg==", "authorization: basic ***"),
        ("a basic idea", "a basic idea"),
        ("access_token='it''s'", "access_token=***'s'"),
        ("tokens=3, pad_token=0, key=id", "tokens=3, pad_token=0, key=id"),
    ],
)
def test_what_is_a_credential_is_masked_and_what_is_none_stays(
    text: str, masked: str
) -> None:
    assert mask(text) == masked


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9+.=_-]{7,30}", fullmatch=True))
def test_no_secret_is_seen_in_any_form_that_is_known(secret: str) -> None:
    forms = (
        "https://{}@h/x",
        "s3://key:{}@b/x",
        "https://h/x?a=1&X-Amz-Signature={}&b=2",
        "https://h/x?sv=2&sig={}",
        "password={}, user=me",
        "{{'client_secret': '{}', 'a': 1}}",
        'api_key: "{}"',
        "Authorization: Bearer {}",
    )
    for form in forms:
        masked = mask(form.format(secret))
        assert secret not in masked
        assert "***" in masked


@pytest.mark.parametrize("most", [1, 40, 1000])
@pytest.mark.parametrize(
    "form",
    ["https://me:{}@h", "?sig={}", "password='{} {}'", "Bearer {}", "{}"],
)
def test_no_part_of_a_secret_is_shown_wherever_a_text_is_cut(
    form: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "ZQJX" * 8)
    secret = form.replace("{}", "ZQJX" * 8)
    for before in range(max(0, most - len(secret) - 2), most + 2):
        cut = mask(" " * before + secret + " end" * 10**5, most)
        assert not set("ZQJX") & set(cut)
        assert len(shown(" " * before + secret, most)) <= most


def test_what_a_cut_text_shows_is_what_the_whole_text_shows() -> None:
    text = "open s3://k:s@b, then ?sig=x&se=2, then\n" * 10**4
    assert mask(text).startswith(mask(text, 5000)[:-3])


@pytest.mark.parametrize(
    ("uri", "held"),
    [
        ("s3://k:s@b/x", True),
        ("https://t@h/x", True),
        ("https://h/x?X-Amz-Signature=1", True),
        ("abfs://container@account.dfs.core.windows.net/x", False),
        ("gs://bucket/user:name@x", False),
        ("hdfs://host:9000/a@b", False),
        ("/local/k:s@b", False),
        ("C:\\a?sig=1", False),
    ],
)
def test_uris_with_credentials_are_told_from_others(uri: str, held: bool) -> None:
    assert holds_credentials(uri) is held


@pytest.mark.parametrize(
    "name",
    [
        "SECRET",
        "client_secret",
        "secret_value",
        "aws_secret_access_key",
        "password",
        "PGPASSWD",
        "ssh_passphrase",
        "AZURE_STORAGE_CONNECTION_STRING",
        "account-key",
        "private_key",
        "token",
        "HF_TOKEN",
        "AWS_SESSION_TOKEN",
        "sas_token",
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)
    for place in ("_file", "_path", "_URL", "-dir", "_name"):
        assert not is_secret_name(name + place)


@pytest.mark.parametrize(
    "name",
    [
        "tokens",
        "pad_token",
        "mask_token",
        "key",
        "keys",
        "monkey",
        "secretary",
        "passed",
    ],
)
def test_names_of_features_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_the_environments_secrets_are_masked_unless_they_are_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-1")
    monkeypatch.setenv("MY_PASSWORD", "short")
    monkeypatch.setenv("MY_PASSWORD_FILE", "/planted-2")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"client": {"token": "planted-3"}})
    monkeypatch.setitem(fsspec.config.conf, "gcs", {"project": "planted-4", "token": 9})
    said = "planted-1 short /planted-2 planted-3 planted-4 9"
    assert mask(said) == "*** short /planted-2 *** planted-4 9"


@pytest.fixture
def logged() -> io.StringIO:
    """What a logger has said, while logs are masked."""
    before = logging.getLogRecordFactory()
    mask_logs.cache_clear()
    mask_logs()
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("direct")
    logger.addHandler(handler)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)
    logging.setLogRecordFactory(before)
    mask_logs.cache_clear()


def test_logs_hold_no_credentials_wherever_they_come_from(logged: io.StringIO) -> None:
    logger = logging.getLogger("direct")
    logger.error("open %s of %d", "s3://k:hunter2@b", 3)
    try:
        raise OSError("https://hunter2@host/x")
    except OSError:
        logger.exception("failed at password=hunter2")
    assert "hunter2" not in logged.getvalue()
    assert "open s3://***@b of 3" in logged.getvalue()
    assert "OSError: https://***@host/x" in logged.getvalue()


def test_logs_are_masked_once_however_often_it_is_asked_for(
    logged: io.StringIO,
) -> None:
    factory = logging.getLogRecordFactory()
    mask_logs()
    assert logging.getLogRecordFactory() is factory


def test_a_log_call_that_does_not_fit_is_not_made_worse(logged: io.StringIO) -> None:
    record = logging.getLogger("direct").makeRecord(
        "direct", logging.INFO, "f", 1, "%d files", ("many",), None
    )
    assert (record.msg, record.args) == ("%d files", ("many",))


@given(st.text())
def test_text_is_made_printable_and_stays_if_it_was(text: str) -> None:
    made = plain(text)
    assert all(c.isprintable() or c == "\n" for c in made)
    assert plain(made) == made
    if text.replace("\n", "").isprintable():
        assert made == text


def test_what_turns_text_around_or_moves_the_cursor_is_shown() -> None:
    controls = [
        chr(n)
        for n in [*range(0x3000), *range(0xE0000, 0xE0080), 0xFEFF]
        if unicodedata.category(chr(n)) in ("Cc", "Cf", "Zl", "Zp") and n != 10
    ]
    assert len(controls) > 180
    for control in controls:
        assert control not in plain(f"a{control}b")
    assert plain("a\r\tb\u202ec\U000e0001") == "a\\r\\tb\\u202ec\\U000e0001"


def test_shown_text_is_masked_before_it_is_made_plain() -> None:
    assert shown("\x1bs3://k:s@b") == "\\x1bs3://***@b"


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((), "[]"),
        ((None,), "[?]"),
        ((2, None, 0), "[2, ?, 0]"),
        (["batch", 1], "[batch, 1]"),
    ],
)
def test_shapes_are_shown_with_marks_for_open_lengths(
    shape: list[object], text: str
) -> None:
    assert shape_text(shape) == text
