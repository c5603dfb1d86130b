"""Settings, addresses and errors are stored and shown without their secrets."""

from dataecho.masking import masked_nested
from dataecho.tracking.redact import masked, masked_error, without_credentials


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


def test_a_configuration_keeps_everything_but_its_secrets():
    config = {
        "task": {
            "train": {
                "urls": ["https://me:pw@host/a.tar?X-Amz-Signature=abc", "/data/b.tar"],
                "storage_options": {
                    "key": "AK",
                    "secret": "SK",
                    "anon": False,
                    "client_kwargs": {"headers": {"X-Mine": "abc", "Accept": 1}, "region_name": "here"},
                },
            }
        },
        "seed": 0,
    }
    clean = {
        "urls": ["https://***@host/a.tar?X-Amz-Signature=***", "/data/b.tar"],
        "storage_options": {
            "key": "***",
            "secret": "***",
            "anon": False,
            "client_kwargs": {"headers": {"X-Mine": "***", "Accept": 1}, "region_name": "here"},
        },
    }
    assert masked_nested(config) == {"task": {"train": clean}, "seed": 0}
    # MLflow's parameters have the same setting as one text by its dotted name.
    assert masked({"task.urls": config["task"]["train"]["urls"]}) == {"task.urls": str(clean["urls"])}
    assert masked({"a.headers.X-Mine": "abc", "a.files": [{"token": "abc"}]}) == {
        "a.headers.X-Mine": "***",
        "a.files": "[{'token': '***'}]",
    }


def test_an_address_of_a_database_keeps_the_settings_in_its_query():
    uri = "postgresql://me:pw@host/db?sslmode=require&password=pw"
    assert without_credentials(uri) == "postgresql://host/db?sslmode=require&password=***"
