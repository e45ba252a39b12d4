"""What settings promise: wrong ones never start a service, and printing them shows no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.runtime.settings import ServiceSettings, SettingsError, Target, load, load_or_exit


class ConsentSettings(ServiceSettings):
    """A workload that cannot do without audit."""

    audit_address: Target
    epoch_batch: int = 64


def test_defaults_suit_production() -> None:
    settings = load(ServiceSettings, {})
    assert settings.environment == "production"
    assert settings.reflection is False
    assert settings.trace_ratio == 0.01
    assert settings.max_document_bytes == 32 * 1024 * 1024
    assert settings.transport == "grpcio"


def test_every_kind_of_value_is_read_from_its_variable(tmp_path: Path) -> None:
    environment = {
        "DMP_AUDIT_ADDRESS": "dns:///audit:8443",
        "DMP_LISTEN": "[::1]:8443",
        "DMP_REFLECTION": "true",
        "DMP_TRACE_RATIO": "0.5",
        "DMP_KEYRING_DIR": str(tmp_path),
        "DMP_ENVIRONMENT": "test",
        "DMP_FAULT_POINTS": "before_commit,after_commit",
        "DMP_EPOCH_BATCH": "7",
        "DMP_OTLP_ENDPOINT": "",
        "PATH": "/bin",
    }
    settings = load(ConsentSettings, environment)
    assert settings.reflection is True
    assert settings.fault_points == {"before_commit", "after_commit"}
    assert (settings.keyring_dir, settings.epoch_batch) == (tmp_path, 7)
    assert settings.otlp_endpoint is None, "an empty variable counts as absent"


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        load(
            ConsentSettings,
            {
                "DMP_TRACE_RATIO": "2",
                "DMP_LISTEN": "nowhere",
                "DMP_REDIS_ULR": "redis://x",
                "DMP_TLS_CERT": "/absent/cert.pem",
                "DMP_TRANSPORT": "carrier pigeon",
            },
        )
    lines = str(refused.value).splitlines()
    assert lines[0] == "wrong settings:"
    assert len(lines) == 7
    for expected in (
        "DMP_REDIS_ULR: unknown; did you mean DMP_REDIS_URL?",
        "DMP_LISTEN: must be host:port",
        "DMP_TRACE_RATIO: input should be less than or equal to 1",
        "DMP_AUDIT_ADDRESS: field required",
        "DMP_TLS_CERT: path does not point to a file",
        "DMP_TRANSPORT: input should be 'grpcio' or 'native'",
    ):
        assert f"  {expected}" in lines


def test_wrong_settings_end_the_process_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_or_exit(ServiceSettings, {"DMP_LOG_LEVEL": "chatty"})
    assert ended.value.code == 2
    assert "DMP_LOG_LEVEL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DMP_DSN": "postgresql://dmp:hunter2@db/dmp"}, "DMP_DSN: must not hold a password"),
        ({"DMP_DSN": "postgresql://db/dmp?password=hunter2"}, "DMP_DSN: must not hold a password"),
        ({"DMP_REDIS_URL": "redis://:hunter2@cache"}, "DMP_REDIS_URL: must not hold a password"),
        ({"DMP_TLS_CERT": __file__}, "go together"),
        ({"DMP_DSN": "postgresql://db/dmp", "DMP_DSN_FILE": __file__}, "exclude each other"),
        ({"DMP_FAULT_POINTS": "before_commit"}, "not for production"),
        ({"DMP_MAX_DOCUMENT_BYTES": str(64 << 20)}, "must be larger"),
        ({"DMP_AUDIT_ADDRESS": "a:1,b"}, "must be host:port"),
        ({"DMP_LISTEN": "host:70000"}, "must be host:port"),
        ({"dmp_listen": "host:1"}, "did you mean DMP_LISTEN"),
    ],
)
def test_a_wrong_combination_is_refused_without_showing_the_value(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        load(ServiceSettings, environment)
    assert "hunter2" not in str(refused.value)


def test_a_secret_is_read_from_its_file_and_never_printed(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text("postgresql://dmp:hunter2@db/dmp\n")
    settings = load(ServiceSettings, {"DMP_DSN_FILE": str(file)})
    assert settings.database_dsn() == "postgresql://dmp:hunter2@db/dmp"
    assert settings.redacted()["DMP_DSN_FILE"] == str(file)
    assert "hunter2" not in repr(settings) + str(settings.redacted())
    assert settings.redacted()["DMP_REFLECTION"] == "false"


def test_what_a_workload_needs_and_was_not_given_is_named() -> None:
    settings = load(ServiceSettings, {})
    with pytest.raises(SettingsError, match="DMP_DSN or DMP_DSN_FILE: required"):
        settings.database_dsn()
    with pytest.raises(SettingsError, match="DMP_TLS_CERT"):
        settings.tls_files()
    assert settings.redis() is None


def test_settings_in_a_test_depend_on_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMP_LOG_LEVEL", "debug")
    assert ServiceSettings().log_level == "info"
    assert load(ServiceSettings).log_level == "debug"
