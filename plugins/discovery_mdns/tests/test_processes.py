"""Two processes on loopback: seen, said goodbye, killed."""

from __future__ import annotations

from plugins.discovery_mdns.tests.loopback import backends, endpoint, service_name, until
from plugins.discovery_mdns.tests.programs import announcer


async def test_two_processes_find_each_other_and_say_goodbye() -> None:
    service = service_name()
    async with backends(1) as (one,), announcer(service, "there", interfaces="loopback", probe_s=0.12) as program:
        await program.line("its announcement", "announced there".__eq__)
        (seen,) = await until(one, service, bool)
        assert seen.urls == ("quic://127.0.0.1:4433", "tcp://[::1]:4434")
        assert seen.attributes == {"weight": "7", "Zone": "Büro"}
        here = await one.announce(endpoint(service, "here"))
        await program.line(
            "our announcement", lambda line: line.startswith("seen here tcp://127.0.0.1:4001 {} | there ")
        )
        await here.withdraw()
        await program.line("our goodbye", lambda line: line.startswith("seen there "))
        await program.finish()
        await until(one, service, lambda seen: not seen)


async def test_a_killed_process_is_dropped_when_it_is_suspected_and_its_name_is_free_again() -> None:
    service = service_name()
    async with backends(1) as (one,):
        async with announcer(service, "dying", "living", interfaces="loopback", probe_s=0.12) as program:
            await program.line("its announcements", "announced living".__eq__)
            seen = await until(one, service, lambda seen: len(seen) == 2)
            program.process.kill()
            await program.process.wait()
        assert await until(one, service, lambda seen: True) == seen, "nobody has said goodbye"
        await one.suspect(seen[0])
        assert [found.instance for found in await until(one, service, lambda seen: True)] == ["living"]
        announcement = await one.announce(endpoint(service, "living", turn="2"))
        assert announcement.endpoint.instance == "living", "only who answers has a name"
        await until(one, service, lambda seen: [dict(found.attributes) for found in seen] == [{"turn": "2"}])
