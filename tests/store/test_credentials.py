"""Where S3's credentials come from: the environment, plain profiles, processes and roles, by boto3's own rules."""

from __future__ import annotations

import datetime
import json
import os
import sys

import pytest

from hubstore.errors import MissingDependencyError, StoreAccessError
from hubstore.storage.cloud import EXPIRES_EARLY, s3_config
from hubstore.storage.location import Url

ROOT = Url("s3", "lab/x.hub")


@pytest.fixture
def aws(tmp_path, monkeypatch):
    """A user's folder of AWS settings, and no other."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def write_keys(aws, number, profile="lab"):
    keys = f"aws_access_key_id = id-{number}\naws_secret_access_key = hush-{number}\n"
    (aws / "credentials").write_text(f"[{profile}]\n{keys}")


def print_keys(aws, number):
    """A command that prints credentials, as `credential_process` has it."""
    keys = {"Version": 1, "AccessKeyId": f"id-{number}", "SecretAccessKey": "hush", "SessionToken": "hush-token"}
    (aws / "keys.json").write_text(json.dumps(keys))
    return f"{sys.executable} -c \"print(open('{aws / 'keys.json'}').read())\""


def test_a_store_without_credentials_says_where_they_may_be(aws):
    with pytest.raises(StoreAccessError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"):
        s3_config(ROOT)


def test_keys_region_and_endpoint_come_from_the_profile_and_are_read_again(aws, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "lab")
    (aws / "config").write_text("[profile lab]\nregion = eu-north-1\nendpoint_url = http://127.0.0.1:1\n")
    write_keys(aws, 1)
    found = s3_config(ROOT)
    assert (found["region"], found["endpoint"]) == ("eu-north-1", "http://127.0.0.1:1")
    first = found["credential_provider"]()
    assert first["access_key_id"] == "id-1"
    assert first["expires_at"] - datetime.datetime.now(datetime.UTC) - EXPIRES_EARLY > datetime.timedelta(minutes=4)
    write_keys(aws, 2)
    assert found["credential_provider"]()["access_key_id"] == "id-2"


def test_a_process_gives_credentials_and_is_asked_again(aws):
    (aws / "config").write_text(f"[default]\ncredential_process = {print_keys(aws, 1)}\n")
    provider = s3_config(ROOT)["credential_provider"]
    found = provider()
    assert (found["access_key_id"], found["token"]) == ("id-1", "hush-token")
    print_keys(aws, 2)
    assert provider()["access_key_id"] == "id-2"


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("role_arn = arn:aws:iam::1:role/a\nsource_profile = none\n", "InvalidConfigError"),
        ("credential_process = /bin/false\n", "CredentialRetrievalError"),
        ("aws_access_key_id = hush\n", "PartialCredentialsError"),
    ],
)
def test_a_profile_whose_credentials_cannot_be_had_is_named_with_the_reason(aws, monkeypatch, profile, said):
    monkeypatch.setenv("AWS_PROFILE", "lab")
    (aws / "config").write_text(f"[profile lab]\n{profile}")
    with pytest.raises(StoreAccessError, match=rf"profile 'lab' cannot be had \({said}\)") as error:
        s3_config(ROOT)
    assert "hush" not in str(error.value)


def test_roles_and_single_sign_on_count_as_credentials(aws, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "lab")
    write_keys(aws, 1, "base")
    for profile in (
        "role_arn = arn:aws:iam::1:role/a\nsource_profile = base\n",
        "sso_start_url = https://a.b\nsso_region = eu-north-1\nsso_account_id = 1\nsso_role_name = a\n",
    ):
        (aws / "config").write_text(f"[profile lab]\nregion = eu-north-1\n{profile}")
        assert callable(s3_config(ROOT)["credential_provider"])


def test_a_profile_that_is_not_there_is_named(aws, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreAccessError, match=r"profile 'nobody' cannot be had \(ProfileNotFound\)"):
        s3_config(ROOT)


def test_keys_of_the_environment_need_no_boto3_and_a_profile_without_it_names_the_extra(aws, monkeypatch):
    for name in ("botocore", "botocore.session", "boto3"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"s3://lab/x\.hub: .* pip install 'hubstore\[remote\]'"):
        s3_config(ROOT)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert s3_config(ROOT) == {"region": "eu-north-1"}


def test_a_profile_gives_the_endpoint_to_keys_of_the_environment(aws, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    (aws / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:1\n")
    assert s3_config(ROOT) == {"endpoint": "http://127.0.0.1:1"}
