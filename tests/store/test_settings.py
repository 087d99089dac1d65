"""What is wrong in a URL or in the environment is one line, which repeats no secret."""

from __future__ import annotations

import os

import pytest

from hubstore.errors import StoreError
from hubstore.storage import cloud, open_storage

KEYS = {
    "AWS_ACCESS_KEY_ID": "hush-id",
    "AWS_SECRET_ACCESS_KEY": "hush-key",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    for name, value in {**KEYS, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", r"^'s3://' names no bucket; write s3://bucket/folder"),
        ("gs://", r"names no bucket; write gs://"),
        ("az://", r"names no container"),
        ("https://", r"names no host; write https://host/folder"),
        ("s3://lab/a/../b", r"'s3://lab/a/\.\./b' has \. or \.\. in its path"),
        ("s3://lab/./b", r"has \. or \.\. in its path"),
        ("s3://la b/x", r"has no bucket that can be: 'la b'"),
        ("s3://lab/a\nb", r"'s3://lab/a\\nb' has a line break"),
        ("http://127.0.0.1:99999/x", r"has no host that can be: '127\.0\.0\.1:99999'"),
        ("http://host:port/x", r"has no host that can be: 'host:port'"),
        ("http://[::1/x", r"has no host that can be"),
        ("http://[1:2]/x", r"is no URL that can be asked for|has no host that can be"),
        ("http://1.2.3.4.5/x", r"http://1\.2\.3\.4\.5/x: is no URL that can be asked for \(invalid IPv4 address\)"),
    ],
)
def test_a_url_that_names_no_place(url, said):
    with pytest.raises(StoreError, match=said) as error:
        open_storage(url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["s3://lab/a b/x.hub", "https://[::1]:8080/x", "http://host:80/x", "az://$web/x"])
def test_a_url_that_is_unusual_and_right(url, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert str(open_storage(url).root) == url


@pytest.mark.parametrize(
    ("url", "settings", "said"),
    [
        ("s3://lab/x", {"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, "its endpoint, AWS_ENDPOINT_URL or .* give one such as"),
        ("s3://lab/x", {"AWS_ENDPOINT_URL": "hush no url"}, "its endpoint, AWS_ENDPOINT_URL or"),
        ("s3://lab/x", {"AWS_SKIP_SIGNATURE": "hush"}, "failed to parse AWS_SKIP_SIGNATURE as boolean; correct it"),
        ("s3://lab/x", {"AWS_CONDITIONAL_PUT": "hush"}, "Failed to parse AWS_CONDITIONAL_PUT as S3PutConditional"),
        ("az://c/x", {}, r"az://c/x: .*Account must be specified; .* set AZURE_STORAGE_ACCOUNT_NAME"),
        (
            "az://c/x",
            {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "!!!hush"},
            "Invalid Access Key.* AZURE_STORAGE_ACCOUNT_KEY",
        ),
        ("gs://b/x", {"GOOGLE_APPLICATION_CREDENTIALS": "/none.json"}, r"from /none\.json: No such file"),
        (
            "gs://b/x",
            {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "hush", "private_key_id": ["hush"]}'},
            r"Unable to decode service account file.* set GOOGLE_APPLICATION_CREDENTIALS",
        ),
    ],
)
def test_a_setting_that_is_not_valid(url, settings, said, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=said) as error:
        open_storage(url)
    assert "\n" not in str(error.value)
    assert "hush" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert ("AWS_ACCESS_KEY_ID" in str(error.value)) <= url.startswith("s3")


def test_a_damaged_file_of_credentials(tmp_path, monkeypatch):
    (tmp_path / "key.json").write_text("{hush")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(StoreError, match="Unable to decode service account file") as error:
        open_storage("gs://b/x")
    assert "hush" not in str(error.value)


def test_each_kind_of_object_store_has_its_own_remedy():
    for url, said in (
        ("s3://b/x", "AWS_PROFILE"),
        ("gs://b/x", "gcloud auth"),
        ("az://b/x", "AZURE_STORAGE_SAS_TOKEN"),
    ):
        assert said in cloud._without(cloud.Url(*url.split("://")))


def test_a_name_that_no_object_can_have_is_refused():
    with pytest.raises(StoreError, match="no object can have this name"):
        open_storage("s3://lab/x").exists("a/../b")
