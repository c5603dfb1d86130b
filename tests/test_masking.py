"""Secrets are found by name and in addresses, and nothing else is."""

import pytest

from dataecho.errors import DataError, SettingError
from dataecho.masking import is_secret_name, masked_text


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db.password",
        "a.api_key",
        "apikey",
        "api-key",
        "token",
        "hf_token",
        "aws_secret_access_key",
        "key",
        "auth",
        "CLIENT_SECRET",
        "sslpassword",
        "headers.Authorization",
        "X-Amz-Signature",
        "sig",
    ],
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "num_tokens",
        "monkey",
        "sort_key",
        "token.size",
        "optimizer.name",
        "keyboard",
        "passwordless",
        "author",
        "signal",
        "design",
    ],
)
def test_names_that_only_look_alike(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:pw@host:5000/a@b", "http://***@host:5000/a@b"),
        ("http://me:p@w@host", "http://***@host"),
        ("see x=s3://key:pw@bucket and https://token@host/", "see x=s3://***@bucket and https://***@host/"),
        ("postgresql://host/db?user=me&password=pw&x=1", "postgresql://host/db?user=***&password=***&x=***"),
        ("https://h/a.tar?X-Amz-Signature=1&b, twice", "https://h/a.tar?X-Amz-Signature=***&***, twice"),
        ("['https://h/a?k=1', 'https://h/b?k=2']", "['https://h/a?k=***', 'https://h/b?k=***']"),
        ("[https://h/a?k=1,2,https://h/b?k=3]", "[https://h/a?k=***,https://h/b?k=***]"),
        ("https://h/get?file=a.tar: HTTP 403. Give", "https://h/get?file=***: HTTP 403. Give"),
        ("https://h/#access=1, http://h/#/runs/2", "https://h/#access=***, http://h/#/runs/2"),
        ("is it? a=b&c=d", "is it? a=b&c=d"),
        ("me@host, 3/4, sqlite:////a/b@c.db", "me@host, 3/4, sqlite:////a/b@c.db"),
    ],
)
def test_secrets_in_a_text(text, clean):
    assert masked_text(text) == clean
    assert masked_text(clean) == clean


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("file=a.tar&token=abc", "file=a.tar&token=***"),
        ("k=train%2Fa-000.parquet&shard=17", "k=train%2Fa-000.parquet&shard=17"),
        ("key=a.tar", "key=***"),  # what is called like a secret is one
        ("k=hunter2&pin=1234&file=a~b", "k=***&pin=***&file=***"),
    ],
)
def test_what_says_which_file_is_meant_stays_where_it_is_to(query, shown):
    assert masked_text(f"https://h/get?{query}", telling=True) == f"https://h/get?{shown}"


def test_errors_mask_what_they_are_told():
    error = SettingError("task.url", "https://me:pw@h/?k=abcd", allowed="see https://h/?sig=efgh", cure="token=ijkl.")
    assert str(error) == "task.url=https://***@h/?k=*** cannot be used. Allowed: see https://h/?sig=***. token=***"
    assert str(SettingError("a.token", "abcd", allowed="b", cure="C.")) == "a.token=*** cannot be used. Allowed: b. C."
    assert str(DataError("https://h/get?file=a.tar&k=abcd: HTTP 403.")) == "https://h/get?file=a.tar&k=***: HTTP 403."


def test_a_long_word_takes_no_long_time():
    # With the square of the length each would take many minutes.
    for text in ("x" * 300_000, "a://" * 75_000, "a://b?" + ":" * 300_000, "a://b?" + ",x" * 150_000):
        assert len(masked_text(text)) <= 300_010
