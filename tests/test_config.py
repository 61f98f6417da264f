import json
import os
from pathlib import Path

import pytest

from sutro_async._config import Settings, resolve_settings
from sutro_async.errors import ConfigurationError

DEFAULT = "https://api.sutro.sh"
KEY = "sk_secret"
OTHER_KEY = "sk_other"

ABSENT = object()


@pytest.fixture
def config_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = Path("~/.sutro/config.json").expanduser()
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def store(config_path):
    def store(content):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        config_path.write_bytes(content)

    return store


def environment(key=None, url=None):
    values = {"SUTRO_API_KEY": key, "SUTRO_API_URL": url}
    return {name: value for name, value in values.items() if value is not None}


def refusal(*arguments, **environ):
    with pytest.raises(ConfigurationError) as caught:
        resolve_settings(*arguments, environ=environment(**environ))
    message = str(caught.value)
    assert message.isprintable()
    assert "secret" not in message
    return message


def normalized(url):
    return resolve_settings(KEY, url, environ={}).base_url


# ---- which key, which URL


@pytest.mark.parametrize(
    ("arguments", "environ", "stored", "expected"),
    [
        ((KEY,), {}, ABSENT, DEFAULT),
        ((KEY, "https://a.test"), {}, ABSENT, "https://a.test/v1"),
        ((KEY,), {"url": "https://e.test"}, ABSENT, "https://e.test/v1"),
        ((KEY, "https://a.test"), {"url": "https://e.test"}, ABSENT, "https://a.test/v1"),
        ((KEY,), {"key": OTHER_KEY}, ABSENT, DEFAULT),
        ((KEY,), {"key": OTHER_KEY, "url": "https://e.test"}, ABSENT, "https://e.test/v1"),
        ((KEY, "https://a.test"), {"key": OTHER_KEY}, ABSENT, "https://a.test/v1"),
        (
            (KEY, "https://a.test"),
            {"key": OTHER_KEY, "url": "https://e.test"},
            ABSENT,
            "https://a.test/v1",
        ),
        ((KEY,), {}, {"api_key": OTHER_KEY, "api_url": "https://f.test"}, DEFAULT),
        ((KEY,), {}, b"not JSON", DEFAULT),
    ],
    ids=[
        "alone",
        "argument-url",
        "environment-url",
        "argument-url-beats-environment-url",
        "beats-environment-key",
        "beats-environment-key-but-takes-its-url",
        "argument-url-and-environment-key",
        "arguments-beat-environment",
        "never-takes-the-url-of-the-file",
        "never-reads-the-file",
    ],
)
def test_key_from_argument(store, arguments, environ, stored, expected):
    if stored is not ABSENT:
        store(stored)
    settings = resolve_settings(*arguments, environ=environment(**environ))
    assert (settings.api_key, settings.base_url) == (KEY, expected)


@pytest.mark.parametrize(
    ("base_url", "url", "stored", "expected"),
    [
        (None, None, ABSENT, DEFAULT),
        (None, "", ABSENT, DEFAULT),
        (None, "https://e.test", ABSENT, "https://e.test/v1"),
        ("https://a.test", None, ABSENT, "https://a.test/v1"),
        ("https://a.test", "", ABSENT, "https://a.test/v1"),
        ("https://E.TEST.:443/v1/", "https://e.test", ABSENT, "https://e.test/v1"),
        (DEFAULT, DEFAULT, ABSENT, DEFAULT),
        (None, None, {"api_key": OTHER_KEY, "api_url": "https://f.test"}, DEFAULT),
        (
            None,
            "https://e.test",
            {"api_key": OTHER_KEY, "api_url": "https://f.test"},
            "https://e.test/v1",
        ),
        (None, None, b"not JSON", DEFAULT),
    ],
    ids=[
        "alone",
        "empty-environment-url",
        "environment-url",
        "argument-url",
        "argument-url-and-empty-environment-url",
        "both-urls-are-the-same-deployment",
        "both-urls-are-the-default",
        "never-takes-the-url-of-the-file",
        "beats-the-key-of-the-file",
        "never-reads-the-file",
    ],
)
def test_key_from_environment(store, base_url, url, stored, expected):
    if stored is not ABSENT:
        store(stored)
    settings = resolve_settings(None, base_url, environ=environment(KEY, url))
    assert (settings.api_key, settings.base_url) == (KEY, expected)


@pytest.mark.parametrize(
    ("base_url", "stored", "expected"),
    [
        (None, {}, DEFAULT),
        (None, {"api_url": "https://f.test"}, "https://f.test/v1"),
        (None, {"base_url": "https://f.test"}, "https://f.test/v1"),
        (None, {"api_url": "https://f.test", "base_url": "https://g.test"}, "https://f.test/v1"),
        (None, {"api_url": None, "base_url": "https://g.test"}, "https://g.test/v1"),
        (None, {"api_url": "", "base_url": "https://g.test"}, "https://g.test/v1"),
        (None, {"api_url": None, "base_url": None}, DEFAULT),
        (None, {"theme": ["dark"], "version": 3}, DEFAULT),
        ("https://F.TEST./v1/", {"api_url": "https://f.test"}, "https://f.test/v1"),
        ("https://f.test/v1", {"base_url": "https://f.test"}, "https://f.test/v1"),
        (DEFAULT, {}, DEFAULT),
    ],
    ids=[
        "alone",
        "api_url",
        "older-base_url",
        "api_url-beats-base_url",
        "null-api_url",
        "empty-api_url",
        "null-urls",
        "further-fields",
        "same-deployment-as-argument",
        "same-older-deployment-as-argument",
        "same-default-as-argument",
    ],
)
def test_key_from_file(store, base_url, stored, expected):
    store({"api_key": KEY, **stored})
    settings = resolve_settings(None, base_url, environ={})
    assert (settings.api_key, settings.base_url) == (KEY, expected)


def test_empty_variables_count_as_unset(store):
    store({"api_key": KEY, "api_url": "https://f.test"})
    settings = resolve_settings(environ=environment("", ""))
    assert settings == Settings(api_key=KEY, base_url="https://f.test/v1")


def test_file_with_byte_order_mark_is_read(store):
    store(b"\xef\xbb\xbf" + json.dumps({"api_key": KEY}).encode())
    assert resolve_settings(environ={}).api_key == KEY


def test_process_environment_is_default(monkeypatch):
    monkeypatch.setenv("SUTRO_API_KEY", KEY)
    monkeypatch.setenv("SUTRO_API_URL", "https://e.test")
    assert resolve_settings() == Settings(api_key=KEY, base_url="https://e.test/v1")


@pytest.mark.parametrize("url", ["http://e.test", "nonsense"])
def test_invalid_environment_url_is_ignored_if_key_and_url_are_passed(url):
    settings = resolve_settings(KEY, "https://a.test", environ=environment(url=url))
    assert settings.base_url == "https://a.test/v1"


# ---- a key never goes to a deployment that it was not given for


@pytest.mark.parametrize(
    "other",
    [
        "https://a.test",
        "https://e.test.evil.test",
        "https://e.test:8443",
        "https://e.test/v2",
        "https://e.test/v1/v1",
        "https://sub.e.test",
        DEFAULT,
    ],
)
def test_environment_key_is_rejected_for_other_url(other):
    message = refusal(None, other, key=KEY, url="https://e.test")
    assert message.startswith("SUTRO_API_KEY is for https://e.test/v1 (SUTRO_API_URL) ")
    assert f"must not be sent to {normalized(other)}:" in message


@pytest.mark.parametrize(
    ("stored", "url", "other"),
    [
        ({"api_url": "https://f.test"}, "https://f.test/v1", "https://a.test"),
        ({"api_url": "https://f.test"}, "https://f.test/v1", DEFAULT),
        ({"base_url": "https://f.test"}, "https://f.test/v1", "https://f.test/prefix"),
        ({"api_url": "http://[::1]:8000"}, "http://[::1]:8000/v1", "http://[::1]"),
        ({}, DEFAULT, "https://a.test"),
        ({}, DEFAULT, "https://api.sutro.sh/v1"),
        ({}, DEFAULT, "https://api.sutro.sh.evil.test"),
    ],
    ids=["other", "default", "path", "port", "not-default", "default-with-path", "look-alike"],
)
def test_file_key_is_rejected_for_other_url(store, stored, url, other):
    store({"api_key": KEY, **stored})
    message = refusal(None, other)
    assert message.startswith(f"the key in ~/.sutro/config.json is for {url} ")
    assert f"must not be sent to {normalized(other)}:" in message


@pytest.mark.parametrize("base_url", [None, "https://e.test", "https://f.test"])
def test_file_key_is_not_used_for_environment_url(store, base_url):
    store({"api_key": KEY, "api_url": "https://f.test"})
    message = refusal(None, base_url, url="https://e.test")
    assert message.startswith("SUTRO_API_URL is set, but there is no key for it")
    assert "SUTRO_API_KEY" in message


@pytest.mark.parametrize("url", [0, False, [], {}, 5, ["https://f.test"]], ids=repr)
@pytest.mark.parametrize("name", ["api_url", "base_url"])
def test_malformed_url_in_file_does_not_fall_back_to_default(store, name, url):
    store({"api_key": KEY, name: url})
    assert "in ~/.sutro/config.json must be a string" in refusal()


# ---- the configuration file


def test_missing_key_error_names_every_source():
    message = refusal()
    for place in ("api_key", "SUTRO_API_KEY", "~/.sutro/config.json", "sutro login"):
        assert place in message


def test_url_without_key_is_rejected():
    assert refusal(None, "https://a.test").startswith("no API key: ")


def test_missing_home_directory_means_no_file(monkeypatch):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert refusal().startswith("no API key: ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"api_key": "sk_secret" oops',
        b'{"api_key": "sk_secret',
        b'{"api_key": "sk_secret\xff"}',
        b'{"api_key": "sk_secret", "n": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
    ],
    ids=["empty", "bad-JSON", "cut-short", "bad-UTF-8", "huge-number", "too-deep"],
)
def test_invalid_json_file_is_named(store, content):
    store(content)
    assert refusal().startswith("~/.sutro/config.json cannot be read (")


@pytest.mark.parametrize(
    "content",
    [
        b'{"api_key": "sk_secret" oops',
        b'{"api_key": "sk_secret\xff"}',
        b'{"api_key": "sk_secret" ' + b"[" * 100_000,
    ],
    ids=["bad-JSON", "bad-UTF-8", "too-deep"],
)
def test_no_chained_error_holds_file(store, content):
    store(content)
    with pytest.raises(ConfigurationError) as caught:
        resolve_settings(environ={})
    error = caught.value
    while error is not None:
        names = (*vars(error), "object")
        held = [name for name in names if "secret" in str(getattr(error, name, ""))]
        assert not held
        error = error.__cause__ or error.__context__


def test_directory_instead_of_file_is_named(config_path):
    config_path.mkdir()
    assert refusal().startswith("~/.sutro/config.json cannot be read (IsADirectoryError)")


def test_file_instead_of_directory_is_named(config_path):
    config_path.parent.rmdir()
    config_path.parent.touch()
    assert refusal().startswith("~/.sutro/config.json cannot be read (NotADirectoryError)")


def test_named_pipe_instead_of_file_does_not_hang(config_path):
    os.mkfifo(config_path)
    assert refusal().startswith("~/.sutro/config.json cannot be read (OSError)")


def test_device_instead_of_file_is_not_read(config_path):
    config_path.symlink_to("/dev/zero")
    assert refusal().startswith("~/.sutro/config.json cannot be read (OSError)")


def test_too_large_file_is_not_read(store):
    store(b" " * 2**20 + b"{}")
    assert refusal().startswith("~/.sutro/config.json cannot be read (OSError)")


def test_unreadable_file_is_named(store, monkeypatch):
    def forbidden(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    store({"api_key": KEY})
    monkeypatch.setattr(Path, "open", forbidden)
    message = refusal()
    assert message.startswith("~/.sutro/config.json cannot be read (PermissionError)")
    assert "SUTRO_API_KEY" in message


@pytest.mark.parametrize(
    "content",
    [{}, {"api_key": None}, {"api_key": 5}, {"api_key": [KEY]}, [KEY], KEY, None, 5],
    ids=["empty", "null", "number", "list", "top-list", "top-string", "top-null", "top-number"],
)
def test_file_without_key_is_named(store, content):
    store(content)
    assert refusal().startswith("~/.sutro/config.json contains no api_key: ")


# ---- keys

BAD_KEYS = {
    "newline-inside": ("sk_\nsecret", "has white space or a control character inside"),
    "header-injection": ("sk\r\nX-Evil: secret", "has white space or a control character inside"),
    "tab-inside": ("sk_\tsecret", "has white space or a control character inside"),
    "space-inside": ("sk_ secret", "has white space or a control character inside"),
    "null": ("sk_\x00secret", "has white space or a control character inside"),
    "delete": ("sk_\x7fsecret", "has white space or a control character inside"),
    "non-ascii": ("sk_sécret_secret", "has a character outside ASCII"),
    "smart-quotes": ("“sk_secret”", "has a character outside ASCII"),
    "lone-surrogate": ("sk_secret\ud800", "has a character outside ASCII"),
}
bad_keys = pytest.mark.parametrize(("key", "problem"), BAD_KEYS.values(), ids=BAD_KEYS)


PADDING = ["\n", "\r\n", " ", "\t", " \n\n", "\xa0", "\u2028"]


@pytest.mark.parametrize("padding", PADDING, ids=ascii)
def test_whitespace_around_keys_and_urls_is_stripped(store, padding):
    key, url = f"{padding}{KEY}{padding}", f"{padding}https://a.test{padding}"
    store({"api_key": key, "api_url": url})
    for settings in (
        resolve_settings(key, url, environ={}),
        resolve_settings(environ=environment(key=key, url=url)),
        resolve_settings(environ={}),
    ):
        assert (settings.api_key, settings.base_url) == (KEY, "https://a.test/v1")


@pytest.mark.parametrize("blank", ["", *PADDING], ids=ascii)
def test_blank_variables_count_as_unset(store, blank):
    store({"api_key": KEY, "api_url": "https://f.test"})
    settings = resolve_settings(environ=environment(key=blank, url=blank))
    assert (settings.api_key, settings.base_url) == (KEY, "https://f.test/v1")
    assert refusal(blank).startswith("api_key must be a non-empty string")


@pytest.mark.parametrize(
    ("arguments", "environ", "stored", "is_default"),
    [
        ((KEY,), {}, ABSENT, True),
        ((), {"key": KEY}, ABSENT, True),
        ((), {}, {"api_key": KEY}, True),
        ((KEY, DEFAULT), {}, ABSENT, False),
        ((KEY,), {"url": DEFAULT}, ABSENT, False),
        ((), {"key": KEY, "url": "https://e.test"}, ABSENT, False),
        ((), {}, {"api_key": KEY, "api_url": DEFAULT}, False),
        ((None, DEFAULT), {}, {"api_key": KEY}, False),
    ],
)
def test_unset_url_is_the_default(store, arguments, environ, stored, is_default):
    if stored is not ABSENT:
        store(stored)
    settings = resolve_settings(*arguments, environ=environment(**environ))
    assert settings.is_default_url is is_default


@bad_keys
def test_malformed_argument_key_is_rejected_unquoted(key, problem):
    assert refusal(key).startswith(f"api_key {problem}")


@bad_keys
def test_malformed_environment_key_is_rejected_unquoted(key, problem):
    assert refusal(key=key).startswith(f"SUTRO_API_KEY {problem}")


@bad_keys
def test_malformed_key_in_file_is_rejected_unquoted(store, key, problem):
    store({"api_key": key})
    assert refusal().startswith(f"api_key in ~/.sutro/config.json {problem}")


@pytest.mark.parametrize("key", ["", b"sk_secret", 5, ["sk_secret"]], ids=repr)
def test_invalid_argument_key_does_not_fall_back_to_environment(key):
    assert refusal(key, key=OTHER_KEY).startswith("api_key must be a non-empty string")


def test_empty_key_in_file_is_rejected(store):
    store({"api_key": ""})
    assert refusal().startswith("api_key in ~/.sutro/config.json must be a non-empty string")


@pytest.mark.parametrize("key", ["k", "sk_live-1.2~3+/=", '"quoted"', "x" * 4096])
def test_any_printable_ascii_is_key(key):
    assert resolve_settings(key, environ={}).api_key == key


def test_repr_of_settings_hides_key():
    settings = Settings(api_key=KEY, base_url=DEFAULT)
    assert repr(settings) == (
        "Settings(base_url='https://api.sutro.sh', is_default_url=False, proxy=None)"
    )


# ---- URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.sutro.sh", "https://api.sutro.sh"),
        ("https://api.sutro.sh/", "https://api.sutro.sh"),
        ("https://api.sutro.sh///", "https://api.sutro.sh"),
        ("https://api.sutro.sh.", "https://api.sutro.sh"),
        ("https://api.sutro.sh:443", "https://api.sutro.sh"),
        ("HTTPS://API.Sutro.SH", "https://api.sutro.sh"),
        ("https://api.sutro.sh/v1", "https://api.sutro.sh/v1"),
        ("https://api.sutro.sh:8443", "https://api.sutro.sh:8443"),
        ("https://xapi.sutro.sh", "https://xapi.sutro.sh/v1"),
        ("https://a.test", "https://a.test/v1"),
        ("https://a.test/", "https://a.test/v1"),
        ("https://a.test/v1/", "https://a.test/v1"),
        ("https://a.test/gateway/Sutro", "https://a.test/gateway/Sutro"),
        ("https://a.test/a.b/..c/...;d=1,2/~e!$&'()*+:_-", None),
        ("https://a.test:8443", "https://a.test:8443/v1"),
        ("https://a.test:", "https://a.test/v1"),
        ("https://a.test:80", "https://a.test:80/v1"),
        ("https://a.test:65535/x", "https://a.test:65535/x"),
        ("https://under_score.a-b.test", "https://under_score.a-b.test/v1"),
        ("https://xn--bcher-kva.test", "https://xn--bcher-kva.test/v1"),
        ("https://" + "a" * 63 + ".test", "https://" + "a" * 63 + ".test/v1"),
        ("https://intranet", "https://intranet/v1"),
        ("https://10.0.0.1", "https://10.0.0.1/v1"),
        ("https://[2001:DB8::0:1]", "https://[2001:db8::1]/v1"),
        ("https://[2001:db8:0:0:0:0:0:1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("http://localhost", "http://localhost/v1"),
        ("http://LOCALHOST.", "http://localhost/v1"),
        ("http://localhost:80/x", "http://localhost/x"),
        ("http://localhost:443", "http://localhost:443/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.255.255.254", "http://127.255.255.254/v1"),
        ("http://[::1]:8000/", "http://[::1]:8000/v1"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]/v1"),
    ],
)
def test_valid_url_is_normalised(url, expected):
    assert normalized(url) == (expected or url)
    assert normalized(normalized(url)) == normalized(url)


NO_CHARACTER = "has white space, a control character or a backslash"
NO_ASCII = "has a character outside ASCII: write its host in punycode"
NO_USER = "must not contain a user name or password"
NO_HOST = "must be an absolute URL with a plain host"
NO_QUERY = "must not have a query or a fragment"
NO_HTTPS = "must begin with https://"
NO_PATH = "has a path that cannot be used as a prefix"
NO_URL = "is not a URL: "
ANY = ""

BAD_URLS = [
    ("https://user@evil.test", NO_USER),
    ("https://user:secret@evil.test", NO_USER),
    ("https://@evil.test", NO_USER),
    ("https://api.sutro.sh@evil.test", NO_USER),
    ("https://api.sutro.sh:443@evil.test", NO_USER),
    ("https://evil.test#@api.sutro.sh", NO_USER),
    ("https://evil.test?@api.sutro.sh", NO_USER),
    ("https://evil.test/@api.sutro.sh", NO_USER),
    ("https://user:sec?ret@evil.test", NO_USER),
    (r"https:\\evil.test", NO_CHARACTER),
    (r"https://evil.test\@api.sutro.sh", NO_CHARACTER),
    (r"https://api.sutro.sh\.evil.test", NO_CHARACTER),
    (r"https:/\evil.test", NO_CHARACTER),
    ("https://a .test", NO_CHARACTER),
    ("https://a.te\tst", NO_CHARACTER),
    ("ht\ntps://a.test", NO_CHARACTER),
    ("https://a.test/\x00", NO_CHARACTER),
    ("https://a.test/\x7f", NO_CHARACTER),
    ("\x01https://a.test", NO_CHARACTER),
    ("https://bücher.test", NO_ASCII),
    ("https://api.sutro。sh", NO_ASCII),
    ("https://аpi.sutro.sh", NO_ASCII),  # noqa: RUF001 - a Cyrillic look-alike is the point
    ("https://a.test:４４３", NO_ASCII),  # noqa: RUF001 - so are full-width digits
    ("https://a.test/\u2215v1", NO_ASCII),
    ("https://a.test/\ud800", NO_CHARACTER),
    ("https://a.test?", NO_QUERY),
    ("https://a.test?x=secret", NO_QUERY),
    ("https://a.test/v1?x=1", NO_QUERY),
    ("https://a.test#", NO_QUERY),
    ("https://a.test/#secret", NO_QUERY),
    ("", NO_HOST),
    ("a.test", NO_HOST),
    ("/v1", NO_HOST),
    ("https:", NO_HOST),
    ("https://", NO_HOST),
    ("https:///v1", NO_HOST),
    ("https:a.test", NO_HOST),
    ("https:/a.test", NO_HOST),
    ("https://:8443", NO_HOST),
    ("https://.", NO_HOST),
    ("https://..", NO_HOST),
    ("https://a.test..", NO_HOST),
    ("https://.a.test", NO_HOST),
    ("https://a..test", NO_HOST),
    ("https://-a.test", NO_HOST),
    ("https://a-.test", NO_HOST),
    ("https://" + "a" * 64 + ".test", NO_HOST),
    ("https://a%2etest", NO_HOST),
    ("https://api.sutro.sh%2f.evil.test", NO_HOST),
    ("https://api.sutro.sh%00.evil.test", NO_HOST),
    ("https://api.sutro.sh,evil.test", NO_HOST),
    ("https://api.sutro.sh;evil.test", NO_HOST),
    ("https://*.test", NO_HOST),
    ("https://[1:2]", ANY),
    ("https://[fe80::1%25eth0]", ANY),
    ("https://[fe80::1%eth0]", ANY),
    ("http://[::1%25lo]", ANY),
    ("https://[::1", NO_URL),
    ("https://::1]", NO_URL),
    ("https://::1", ANY),
    ("https://[]", ANY),
    ("https://[a.test]", ANY),
    ("https://[127.0.0.1]", ANY),
    ("https://[v1.evil.test]", ANY),
    ("https://[::1]evil.test", ANY),
    ("https://[::1].evil.test", ANY),
    ("https://[::1]]", ANY),
    ("https://evil.test[::1]", ANY),
    ("http://evil.test[::1]", ANY),
    ("http://[::1].evil.test", ANY),
    ("https://[[::1]]", ANY),
    ("https://a.test:65536", NO_URL),
    ("https://a.test:-1", NO_URL),
    ("https://a.test:+443", NO_URL),
    ("https://a.test:http", NO_URL),
    ("https://a.test:1:2", NO_URL),
    ("http://a.test", NO_HTTPS),
    ("http://api.sutro.sh", NO_HTTPS),
    ("http://10.0.0.1", NO_HTTPS),
    ("http://0.0.0.0", NO_HTTPS),
    ("http://128.0.0.1", NO_HTTPS),
    ("http://127.1", NO_HTTPS),
    ("http://0177.0.0.1", NO_HTTPS),
    ("http://2130706433", NO_HTTPS),
    ("http://127.0.0.1.evil.test", NO_HTTPS),
    ("http://localhost.evil.test", NO_HTTPS),
    ("http://evil.localhost", NO_HTTPS),
    ("http://[::]", NO_HTTPS),
    ("http://[::2]", NO_HTTPS),
    ("http://[2001:db8::1]", NO_HTTPS),
    ("//a.test", NO_HTTPS),
    ("ftp://a.test", NO_HTTPS),
    ("ftp://localhost", NO_HTTPS),
    ("file://localhost/etc", NO_HTTPS),
    ("httpss://a.test", NO_HTTPS),
    ("javascript://a.test", NO_HTTPS),
    ("https://a.test/.", NO_PATH),
    ("https://a.test/..", NO_PATH),
    ("https://a.test/v1/../admin", NO_PATH),
    ("https://a.test/./v1", NO_PATH),
    ("https://a.test//v1", NO_PATH),
    ("https://a.test//evil.test/v1", NO_PATH),
    ("https://a.test/a//b", NO_PATH),
    ("https://a.test/%2e%2e", NO_PATH),
    ("https://a.test/a%2fb", NO_PATH),
    ("https://a.test/a%00", NO_PATH),
    ("https://a.test/[x]", NO_PATH),
    ("https://a.test/<x>", NO_PATH),
    ('https://a.test/"x"', NO_PATH),
]


@pytest.mark.parametrize(("url", "problem"), BAD_URLS, ids=[ascii(url) for url, _ in BAD_URLS])
def test_invalid_url_is_rejected(url, problem):
    assert refusal(KEY, url).startswith(f"base_url {problem}")


@pytest.mark.parametrize("url", [b"https://a.test", 5, True, ["https://a.test"]], ids=repr)
def test_url_must_be_string(url):
    assert refusal(KEY, url).startswith("base_url must be a string such as 'https://api.sutro.sh'")


def test_invalid_environment_url_is_named():
    assert refusal(key=KEY, url="http://e.test").startswith("SUTRO_API_URL must begin with https:")


def test_invalid_url_in_file_is_named(store):
    store({"api_key": KEY, "api_url": "http://f.test"})
    assert refusal().startswith("api_url in ~/.sutro/config.json must begin with https:")


def test_invalid_url_error_shows_valid_example():
    assert f"such as {DEFAULT!r}" in refusal(KEY, "a.test")
    assert f"such as {DEFAULT!r}" in refusal(KEY, "http://a.test")


def test_empty_argument_url_does_not_fall_back_to_environment():
    assert refusal(KEY, "", url="https://e.test").startswith("base_url ")
