"""Secrets are found by name and in addresses, and nothing else is."""

import pytest

from dataecho.tracking.redact import is_secret_name, masked, masked_error, masked_text, without_credentials


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
    ],
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["num_tokens", "monkey", "sort_key", "token.size", "optimizer.name", "keyboard", "passwordless", "author"]
)
def test_names_that_only_look_alike(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:pw@host:5000/a@b", "http://***@host:5000/a@b"),
        ("http://me:p@w@host", "http://***@host"),
        ("see x=s3://key:pw@bucket and https://token@host/", "see x=s3://***@bucket and https://***@host/"),
        ("postgresql://host/db?user=me&password=pw&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("me@host, 3/4, sqlite:////a/b@c.db", "me@host, 3/4, sqlite:////a/b@c.db"),
    ],
)
def test_secrets_in_a_text(text, clean):
    assert masked_text(text) == clean


def test_a_secret_that_is_not_set_shows_that():
    assert masked({"a.token": None, "b.token": "", "c.token": "pw", "d": None}) == {
        "a.token": "None",
        "b.token": "",
        "c.token": "***",
        "d": "None",
    }


def test_a_uri_without_credentials_still_leads_there():
    assert without_credentials("https://me:pw@host:5000/path") == "https://host:5000/path"
    assert without_credentials("postgresql+psycopg2://me:pw@host/db") == "postgresql+psycopg2://host/db"
    assert without_credentials("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_an_error_shows_neither_the_address_nor_the_password_alone():
    uri = "http://me:p%40w@host"
    error = OSError(f"cannot open {uri}/x: user me, p%40w or p@w is wrong\nsecond line")
    assert masked_error(error, uri=uri) == "OSError: cannot open http://***@host/x: user me, *** or *** is wrong"
    assert masked_error(OSError(), uri=uri) == "OSError"
    assert len(masked_error(OSError("x" * 1000), uri=uri)) == 300


def test_a_long_word_takes_no_long_time():
    assert masked_text("x" * 300_000) == "x" * 300_000  # with the square of the length it would take many minutes
