"""Resolution: which of several providers is taken, and what is said when there is none."""

from __future__ import annotations

from typing import Any

import pytest

from echostream_core.errors import PluginConflict
from echostream_core.index import PluginRef
from echostream_core.plugin_reports import PluginSettings
from echostream_core.resolver import Policy, choose, not_found, package_hint


def plugin(distribution: str, name: str = "main", **facts: Any) -> PluginRef:
    return PluginRef(name=name, distribution=distribution, reference="x", **facts)


ONE, TWO = plugin("dist-one"), plugin("dist-two")


def chosen(settings: PluginSettings, *candidates: PluginRef, kind: str = "transport") -> PluginRef | None:
    return choose(kind, "k", candidates, Policy(settings))


def test_one_candidate_is_chosen_and_none_is_none() -> None:
    assert chosen(PluginSettings(), ONE) is ONE
    assert chosen(PluginSettings()) is None


def test_two_candidates_are_an_error_that_shows_the_setting() -> None:
    with pytest.raises(PluginConflict) as caught:
        chosen(PluginSettings(), ONE, TWO)
    assert "E-AMBIGUOUS: the transport 'k' is offered by dist-one and dist-two" in str(caught.value)
    assert 'prefer."transports.k" = "dist-one"' in caught.value.fix


def test_two_plugins_of_one_distribution_are_named_apart() -> None:
    left, right = plugin("dist", "left"), plugin("dist", "right")
    with pytest.raises(PluginConflict, match="dist/left and dist/right"):
        chosen(PluginSettings(), left, right)
    assert chosen(PluginSettings(prefer={"k": "dist/right"}), left, right) is right
    with pytest.raises(PluginConflict, match="offers it more than once"):
        chosen(PluginSettings(prefer={"k": "dist"}), left, right)


@pytest.mark.parametrize("key", ["k", "transports.k", "transport.k"])
@pytest.mark.parametrize("name", ["dist-two", "Dist_Two", "dist-two/main"])
def test_a_preference_settles_it(key: str, name: str) -> None:
    assert chosen(PluginSettings(prefer={key: name}), ONE, TWO) is TWO


def test_a_preference_for_one_kind_leaves_others_alone() -> None:
    settings = PluginSettings(prefer={"codecs.k": "dist-two"})
    assert chosen(settings, ONE, TWO, kind="codec") is TWO
    with pytest.raises(PluginConflict):
        chosen(settings, ONE, TWO, kind="transport")


def test_a_preference_for_somebody_else_is_an_error_even_with_one_candidate() -> None:
    with pytest.raises(PluginConflict, match=r'prefer\.k names "dist-three", which does not offer it'):
        chosen(PluginSettings(prefer={"k": "dist-three"}), ONE)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (PluginSettings(), ""),
        (PluginSettings(autoload="all"), ""),
        (PluginSettings(allow=("DIST_ONE",)), ""),
        (PluginSettings(autoload="none", allow=("dist-one",)), ""),
        (PluginSettings(block=("Dist.One",)), 'block lists "dist-one"'),
        (PluginSettings(block=("dist-one",), allow=("dist-one",)), 'block lists "dist-one"'),
        (PluginSettings(allow=("dist-two",)), 'allow does not list "dist-one"'),
        (PluginSettings(autoload="none"), 'autoload is "none" and allow is empty'),
    ],
)
def test_who_may_be_loaded(settings: PluginSettings, reason: str) -> None:
    excluded = Policy(settings).excluded(ONE)
    assert (reason in excluded) if reason else excluded == ""


def test_built_ins_need_no_permission_but_can_be_blocked() -> None:
    own = plugin("echostream-core")
    assert Policy(PluginSettings(autoload="none")).excluded(own) == ""
    assert Policy(PluginSettings(block=("echostream-core",))).excluded(own) != ""


def test_what_nothing_refers_to_is_loaded_when_asked_for_by_name() -> None:
    keyless, keyed = plugin("dist-one"), plugin("dist-one", promises=(("codec", "c"),))
    assert not Policy(PluginSettings()).wants_unreferenced(keyless)
    assert Policy(PluginSettings(allow=("dist-one",))).wants_unreferenced(keyless)
    assert not Policy(PluginSettings(allow=("dist-one",))).wants_unreferenced(keyed)
    assert Policy(PluginSettings(autoload="all")).wants_unreferenced(keyed)


def test_no_provider_says_what_is_installed_and_what_we_publish() -> None:
    error = not_found("transport", "quic", ["memory", "tcp"])
    assert str(error) == (
        "E-NO-PROVIDER: no plugin provides the transport 'quic'; installed: memory, tcp. pip install echostream-quic"
    )
    assert (error.kind, error.name, error.closest) == ("transport", "quic", None)
    assert error.known == ("memory", "tcp")


def test_no_provider_suggests_a_near_name_and_never_guesses_a_package() -> None:
    near = not_found("transport", "memry", ["memory"])
    assert near.closest == "memory" and near.fix == "Did you mean 'memory'?"
    published = not_found("codec", "msgpak", ["json"])
    assert published.fix == "Did you mean 'msgpack'? pip install echostream-codec-msgpack"
    browsers = not_found("transport", "http", ["memory", "tcp"])
    assert browsers.fix == "Did you mean 'ws'? pip install echostream-websocket"
    assert not_found("transport", "https", ["memory", "wss"]).fix == "Did you mean 'wss'?"
    unknown = not_found("transport", "carrierpigeon", [])
    assert "pip" not in unknown.fix and "installed: none" in str(unknown)


def test_no_provider_tells_of_an_excluded_one() -> None:
    error = not_found("codec", "c", [], [(ONE, '[plugins] block lists "dist-one"')])
    assert "provided by dist-one, which must not be loaded" in str(error)


def test_hints_exist_for_what_we_publish_only() -> None:
    assert package_hint("transport", "tls") == "echostream-tcp"
    assert package_hint("discovery", "mdns") == "echostream-discovery-mdns"
    assert package_hint("codec", "tcp") is None
    assert package_hint("no-kind", "tcp") is None
