from __future__ import annotations

from keyswitch_engine.cool_down import MAX_COOL_DOWNS, CoolDowns, RateLimited
from keyswitch_engine.credential import ApiKey, AwsAccessKey, GoogleServiceAccount, NoCredential
from keyswitch_engine.fingerprint import Fingerprints
from keyswitch_engine.secret import Secret

LIMITED = RateLimited("tenant", "openai", "api.openai.com", "fingerprint", "model")


def test_a_cool_down_passes() -> None:
    """Calls wait for what is left of it, and then no longer."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 100.0, 5.0)
    assert [waiting.remaining(LIMITED, now) for now in (100.0, 103.5, 105.0, 110.0)] == [5.0, 1.5, 0.0, 0.0]
    assert len(waiting) == 0


def test_a_cool_down_is_never_shortened() -> None:
    """A provider that asks to wait for less takes nothing back of what it asked for before."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 100.0, 5.0)
    waiting.start(LIMITED, 101.0, 1.0)
    assert waiting.remaining(LIMITED, 101.0) == 4.0
    waiting.start(LIMITED, 102.0, 9.0)
    assert waiting.remaining(LIMITED, 102.0) == 9.0


def test_each_part_tells_rate_limits_apart() -> None:
    """Another caller, provider, origin, key or model is not held up."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 0.0, 5.0)
    for name in RateLimited._fields:
        assert waiting.remaining(LIMITED._replace(**{name: "other"}), 0.0) == 0.0


def test_their_number_is_bounded() -> None:
    """What has passed makes room first, then the oldest; however many keys come, no more are kept."""
    waiting = CoolDowns()
    keys = [LIMITED._replace(key_fingerprint=str(number)) for number in range(MAX_COOL_DOWNS + 2)]
    waiting.start(keys[0], 0.0, 100.0)
    for key in keys[1:MAX_COOL_DOWNS]:
        waiting.start(key, 0.0, 10.0)
    waiting.start(keys[-2], 20.0, 10.0)
    assert (len(waiting), waiting.remaining(keys[0], 20.0)) == (2, 80.0)
    for key in keys[1:]:
        waiting.start(key, 20.0, 10.0)
    assert len(waiting) == MAX_COOL_DOWNS
    assert (waiting.remaining(keys[0], 20.0), waiting.remaining(keys[-1], 20.0)) == (0.0, 10.0)


def test_a_fingerprint_tells_keys_apart_and_nothing_else() -> None:
    """It is the same for the same key, another for another one and in another process, and none without a key."""
    prints = Fingerprints()
    key = "some-key"
    assert prints.of(ApiKey(Secret(key))) == prints.of(ApiKey(Secret(key), organization="org"))
    assert prints.of(ApiKey(Secret(key))) != prints.of(ApiKey(Secret("some-kez")))
    assert prints.of(ApiKey(Secret(key))) != Fingerprints().of(ApiKey(Secret(key)))
    assert prints.of(NoCredential()) == ""
    assert len(prints.of(ApiKey(Secret(key)))) == 16


def test_a_fingerprint_is_of_all_parts_of_a_credential() -> None:
    """Credentials of several parts differ if any secret does, and parts do not run into each other."""
    prints = Fingerprints()
    pairs = [("a", "bc"), ("ab", "c"), ("a", "bd")]
    assert len({prints.of(AwsAccessKey(Secret(one), Secret(two))) for one, two in pairs}) == 3
    accounts = [GoogleServiceAccount("me", Secret(key), "1", "project") for key in ("one", "two")]
    assert len({prints.of(account) for account in accounts}) == 2
