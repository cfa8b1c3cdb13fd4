"""Settings from the environment, and the errors of invalid ones."""

import pytest
from pydantic import ValidationError

from service.config.settings import Settings, SettingsError, environment_name, read_settings


def test_without_an_environment_everything_has_a_default() -> None:
    settings = read_settings()
    assert settings == Settings()
    assert (settings.host, settings.port, settings.artefact) == ("127.0.0.1", 8000, None)
    assert (settings.max_batch_size, settings.max_queue_delay_ms, settings.max_queue_size) == (16, 0, 256)


def test_the_environment_is_read_with_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_MAX_BATCH_SIZE", "32")
    monkeypatch.setenv("MARROWLENS_COUNT_OTHER", "true")
    monkeypatch.setenv("MAX_QUEUE_SIZE", "1")
    settings = read_settings()
    assert (settings.max_batch_size, settings.count_other, settings.max_queue_size) == (32, True, 256)


def test_an_empty_value_is_as_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_ARTEFACT", "")
    monkeypatch.setenv("MARROWLENS_DECODE_THREADS", "")
    assert read_settings() == Settings()


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_PORT", "9000")
    assert read_settings().port == 9000
    assert read_settings(port=9100).port == 9100


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MARROWLENS_MAX_BATCHSIZE", "MARROWLENS_MAX_BATCH_SIZE"),
        ("MARROWLENS_ARTIFACT", "MARROWLENS_ARTEFACT"),
        ("marrowlens_prt", "MARROWLENS_PORT"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"^{name} is not a setting: did you mean {nearest}\\?$"):
        read_settings()


def test_the_link_of_a_kubernetes_service_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_SERVICE_HOST", "10.0.0.7")
    with pytest.raises(SettingsError, match="enableServiceLinks: false"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MARROWLENS_PORT", "70000"),
        ("MARROWLENS_PORT", "tcp://10.0.0.7:8000"),
        ("MARROWLENS_MAX_BATCH_SIZE", "0"),
        ("MARROWLENS_PROVIDER", "tpu"),
        ("MARROWLENS_REQUEST_TIMEOUT_S", "-1"),
        ("MARROWLENS_REQUEST_TIMEOUT_S", "inf"),
        ("MARROWLENS_SHUTDOWN_TIMEOUT_S", "nan"),
    ],
)
def test_a_value_out_of_bounds_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}(={value})?: "):
        read_settings()


def test_every_bad_value_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_PORT", "x")
    monkeypatch.setenv("MARROWLENS_MAX_PIXELS", "0")
    with pytest.raises(SettingsError, match="MARROWLENS_PORT=x: .*; MARROWLENS_MAX_PIXELS=0: "):
        read_settings()


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"max_queue_size": 8}, "MARROWLENS_MAX_QUEUE_SIZE=8 is below MARROWLENS_MAX_BATCH_SIZE=16"),
        ({"max_body_bytes": 1024}, "MARROWLENS_MAX_BODY_BYTES=1024 is below MARROWLENS_MAX_IMAGE_BYTES=10485760"),
    ],
)
def test_values_that_contradict_each_other(chosen: dict[str, int], sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^{sentence}"):
        read_settings(**chosen)


def test_an_argument_that_is_no_setting_is_an_error() -> None:
    with pytest.raises(SettingsError, match="^MARROWLENS_PROT: "):
        read_settings(prot=1)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 9000


def test_every_setting_says_what_it_is() -> None:
    assert environment_name("max_image_bytes") == "MARROWLENS_MAX_IMAGE_BYTES"
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("value", ["tcp://user:word@10.0.0.7:8000", "word@10.0.0.7", "line\nbreak"])
def test_a_bad_value_that_could_hold_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MARROWLENS_PORT", value)
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert str(refused.value).startswith("MARROWLENS_PORT: ") and "word" not in str(refused.value)
