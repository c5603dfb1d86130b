"""What is said of URLs without opening them."""

import pytest

from dataecho.sources.index_store import shard_key
from dataecho.sources.urls import names_of, shown_url, without_secrets, without_signature


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@h/a.tar?X-Amz-Signature=abc#part", "https://h/a.tar"),
        ("https://h/get?token=abc&file=a.tar&k=hunter2", "https://h/get?file=a.tar"),
        ("https://h/get?shard=17&sig=abc", "https://h/get?shard=17"),
        ("s3://key:secret@bucket/a.tar", "s3://bucket/a.tar"),
        ("/data/a?b=c#d.tar", "/data/a?b=c#d.tar"),
    ],
)
def test_a_url_is_shown_with_what_tells_which_file_is_meant_and_no_more(url, shown):
    assert shown_url(url) == shown


def test_names_are_paths_where_these_tell_files_apart():
    urls = [f"https://me:{n}@h/data/{n}/a.tar?sig={n}" for n in "12"]
    assert names_of(urls) == names_of(["/there/1/a.tar", "/there/2/a.tar"]) == ["1/a.tar", "2/a.tar"]


def test_names_of_files_of_one_path_are_their_places_and_what_is_no_secret():
    assert names_of(["https://h/get?file=a.tar&token=1", "https://h/get?file=b.tar&token=2", "https://h/c.tar"]) == [
        "get?file=a.tar (1 of 3)",
        "get?file=b.tar (2 of 3)",
        "c.tar",
    ]
    assert names_of(["https://h/get?token=1", "https://h/get?token=2"]) == ["get (1 of 2)", "get (2 of 2)"]


def test_text_about_a_url_shows_no_secret_of_it_nor_of_another_it_led_to():
    url = "https://me:passw@h/get?token=abcdefgh&file=a.tar"
    text = f"403 for {url}: me:passw or abcdefgh is wrong; it led to https://cdn/x?sig=zzzz"
    shown = without_secrets(text, url)
    assert shown == "403 for https://h/get?file=a.tar: *** or *** is wrong; it led to https://cdn/x?sig=***"


def test_what_is_kept_of_a_file_is_found_again_when_it_is_signed_anew():
    def signed(signature, date):
        amazon = f"X-Amz-Date={date}&X-Amz-Expires=60&X-Amz-Signature={signature}"
        return [
            f"https://h/a.tar?versionId=7&{amazon}",
            f"https://h/a.tar?versionId=7&se={date}&sp=r&sig={signature}",
            f"https://h/a.tar?versionId=7&Expires={date}&Signature={signature}&Key-Pair-Id=K",
        ]

    plain = "https://h/a.tar?versionId=7"
    for old, new in zip(signed("abc", "1"), signed("def", "2"), strict=True):
        assert without_signature(old) == without_signature(new) == plain
        assert shard_key(old) == shard_key(new) == shard_key(plain)
    # What is no signature may say which file is meant.
    assert len({shard_key(f"https://h/get?{query}") for query in ("token=1", "token=2", "se=1", "se=2")}) == 4
