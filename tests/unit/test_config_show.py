"""What ``config show`` prints: every setting with its source, no secret."""

from __future__ import annotations

import json

from echostream_core.config import load_config
from echostream_core.config_show import show

SETTINGS = {
    "server.token_shop.listen": "memory://a",
    "server.token_shop.tls": {"private_key": "secrets/key.pem", "ca": "-----BEGIN CERTIFICATE-----"},
    "client.c.url": "memory://a",
    "client.c.credentials.token": "hush-1",
    "authenticator.tokens.tokens": {"hush-2": "ada"},
    "authenticator.tokens.issuer": "me",
    "resource.db.url": "postgres://user:hush-3@db/x",
    "resource.db.replicas": ["postgres://user:hush-4@db/x", {"password": "hush-5"}],
    "resource.db.API_KEY": "hush-6",
    "resource.db.client_secret_value": 77777,
    "transport.web.authorization": "Bearer hush-7",
    "transport.web.headers": {"X-Key": "hush-8"},
    "client.c.transport.web.headers.X-Key": "hush-9",
}


def test_values_come_with_sources_and_defaults() -> None:
    rows = {key: (value, source) for key, value, source in show(load_config(environ={}, overrides=SETTINGS))}
    assert rows["server.token_shop.listen"] == (["memory://a"], "command line")
    assert rows["server.token_shop.drain_s"] == (30.0, "default")
    assert rows["server.token_shop.tls.private_key"] == ("secrets/key.pem", "command line")
    assert rows["plugins.autoload"] == ("referenced", "default")
    assert rows["authenticator.tokens.issuer"] == ("me", "command line")
    assert "server.token_shop.name" not in rows and "server.token_shop.advertise" not in rows


def test_secrets_are_hidden_wherever_they_stand() -> None:
    rows = show(load_config(environ={}, overrides=SETTINGS))
    text = json.dumps(rows)
    assert "hush" not in text and "77777" not in text and "BEGIN" not in text
    shown = {key: value for key, value, _ in rows}
    assert shown["client.c.credentials"] == "***"
    assert shown["client.c.insecure_credentials"] is False
    assert shown["resource.db.url"] == "postgres://user:***@db/x"
    assert shown["resource.db.replicas"] == ["postgres://user:***@db/x", {"password": "***"}]
