from __future__ import annotations

import asyncio

from keyswitch_engine.cool_down import LONGEST_COOL_DOWN, MAX_COOL_DOWNS, CoolDown, CoolDowns, RateLimited
from keyswitch_engine.credential import ApiKey, AwsAccessKey, GoogleServiceAccount, NoCredential
from keyswitch_engine.fingerprint import Fingerprints
from keyswitch_engine.secret import Secret

LIMITED = RateLimited("tenant", "generation", "openai", "api.openai.com", "fingerprint", "model")


def found(waiting: CoolDowns, limited: RateLimited, now: float) -> CoolDown:
    cooling = waiting.find(limited, now)
    assert cooling is not None
    return cooling


def test_a_cool_down_passes() -> None:
    """It is kept for a while after its time, for a first call to probe, and then forgotten."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 100.0, 5.0)
    assert [found(waiting, LIMITED, now).until for now in (100.0, 105.0, 114.9)] == [105.0] * 3
    assert waiting.find(LIMITED, 115.0) is None
    assert len(waiting) == 0


def test_a_cool_down_is_never_shortened() -> None:
    """A provider that asks to wait for less takes nothing back of what it asked for before."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 100.0, 5.0)
    waiting.start(LIMITED, 101.0, 1.0)
    assert found(waiting, LIMITED, 101.0).until == 105.0
    waiting.start(LIMITED, 102.0, 9.0)
    assert found(waiting, LIMITED, 102.0).until == 111.0


def test_no_key_waits_for_long_without_a_probe() -> None:
    """A provider that asks to wait for a month is asked again after ten minutes; its own word is kept until then."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 100.0, 31 * 86_400.0)
    assert found(waiting, LIMITED, 100.0).until == 100.0 + LONGEST_COOL_DOWN == 700.0
    assert found(waiting, LIMITED, 100.0).asked_until == 100.0 + 31 * 86_400.0
    waiting.start(LIMITED, 700.0, 5.0)
    assert (found(waiting, LIMITED, 700.0).until, found(waiting, LIMITED, 700.0).asked_until) == (705.0, 705.0)


def test_each_part_tells_rate_limits_apart() -> None:
    """Another caller, operation, provider, origin, key or model is not held up."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 0.0, 5.0)
    for name in RateLimited._fields:
        assert waiting.find(LIMITED._replace(**{name: "other"}), 0.0) is None


def test_a_probe_that_is_answered_ends_the_cool_down() -> None:
    """It is forgotten then, unless another call was refused while the probe was under way."""
    waiting = CoolDowns()
    for refused_meanwhile in (False, True):
        waiting.start(LIMITED, 100.0, 5.0)
        cooling = found(waiting, LIMITED, 105.0)
        cooling.probe(105.0)
        if refused_meanwhile:
            waiting.start(LIMITED, 106.0, 5.0)
        cooling.passed(106.0)
        cooling.end_probe(106.0)
        assert (waiting.find(LIMITED, 106.0) is not None) == refused_meanwhile


def test_a_probe_without_any_word_lets_the_others_go_after_a_while() -> None:
    """What is not refused within two seconds is being answered, however long that takes."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 100.0, 5.0)
    cooling = found(waiting, LIMITED, 105.0)
    cooling.probe(105.0)
    assert (cooling.probed, cooling.opens) == (True, 107.0)
    assert found(waiting, LIMITED, 106.9) is cooling
    assert waiting.find(LIMITED, 107.0) is None


def test_probes_are_not_sent_one_after_another() -> None:
    """If a probe ends without a word about the limit, the next one follows half a second later."""
    waiting = CoolDowns()
    waiting.start(LIMITED, 100.0, 5.0)
    cooling = found(waiting, LIMITED, 105.0)
    cooling.probe(105.0)
    cooling.end_probe(105.1)
    assert (found(waiting, LIMITED, 105.1).until, cooling.probed) == (105.6, False)


async def test_whoever_waits_hears_of_the_probe() -> None:
    """The end of a probe wakes everybody who waits, and nobody is counted who no longer does."""
    cooling = CoolDown()
    cooling.probe(0.0)
    waits = [asyncio.ensure_future(cooling.wait(60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert cooling.waiting == 3
    waits[0].cancel()
    cooling.end_probe(1.0)
    async with asyncio.timeout(5):
        await asyncio.gather(*waits, return_exceptions=True)
    assert (cooling.waiting, cooling.probed) == (0, False)


def test_their_number_is_bounded() -> None:
    """What has passed makes room first, then whichever was refused longest ago; however many keys come, no more stay."""
    waiting = CoolDowns()
    keys = [LIMITED._replace(key_fingerprint=str(number)) for number in range(MAX_COOL_DOWNS + 2)]
    for key in keys[:MAX_COOL_DOWNS]:
        waiting.start(key, 0.0, 10.0)
    waiting.start(keys[0], 20.0, 10.0)
    assert len(waiting) == 1
    for key in keys[1:]:
        waiting.start(key, 20.0, 10.0)
    assert len(waiting) == MAX_COOL_DOWNS
    assert [waiting.find(key, 20.0) is None for key in (*keys[:3], keys[-1])] == [True, True, False, False]


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
