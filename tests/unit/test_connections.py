"""Connections that take without giving, and answers that nobody takes: which are ended, and which never."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gateway.answers import Answers, TooSlow
from gateway.connections import ConnectionBounds, Connections, Traffic, Watch
from tests.unit.test_quotas import Clock

BOUNDS = ConnectionBounds(most=3, silent=120, watched=30, slowest=1000)


def traffic(cookie: int, silent: float = 0.0, taken: int = 0, *, waits: bool = False) -> Traffic:
    return Traffic(cookie, silent, waits, taken)


def test_a_connection_on_which_nothing_moves_is_closed_after_two_minutes() -> None:
    assert Watch(BOUNDS).closes([traffic(1, 119.9), traffic(2, 120.0)], 0.0) == {2: "silent"}


def test_beyond_the_most_those_on_which_nothing_has_moved_for_longest_go() -> None:
    seen = [traffic(1, 5), traffic(2, 50), traffic(3, 1), traffic(4, 40), traffic(5, 0), traffic(6, 130)]
    assert Watch(BOUNDS).closes(seen, 0.0) == {6: "silent", 2: "too_many", 4: "too_many"}


@pytest.mark.parametrize(
    ("taken", "closed"),
    [
        ([0, 0, 0, 0, 0], True),
        ([0, 100, 200, 300, 400], True),
        ([0, 10_000, 20_000, 30_000, 40_000], False),
        ([0, 0, 0, 30_001, 30_001], False),
    ],
)
def test_who_takes_an_answer_too_slowly_for_half_a_minute_is_cut_off(taken: list[int], closed: bool) -> None:
    watch = Watch(BOUNDS)
    found = [watch.closes([traffic(1, taken=each, waits=True)], 10.0 * at) for at, each in enumerate(taken)]
    assert any(found) == closed
    assert not any(found[:3]), "not before half a minute"


def test_who_has_taken_all_meanwhile_begins_anew() -> None:
    watch = Watch(BOUNDS)
    for second in range(0, 200, 10):
        waits = second % 30 != 0
        assert not watch.closes([traffic(1, taken=0, waits=waits)], float(second))


# --- sockets ----------------------------------------------------------------------------------------------------------


class Server:
    """A server in this process that says much to whoever comes."""

    def __init__(self) -> None:
        self.ended = 0
        self.port = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.read(1) == b"m":
                writer.write(b"x" * (8 << 20))
                await writer.drain()
            await reader.read(1)
        except ConnectionError:
            pass
        self.ended += 1
        writer.transport.abort()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    serving = Server()
    listening = await asyncio.start_server(serving.connected, "127.0.0.1", 0)
    serving.port = listening.sockets[0].getsockname()[1]
    yield serving
    listening.close()


async def opened(port: int, first: bytes) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", port))
    await loop.sock_sendall(connection, first)
    await asyncio.sleep(0.1)
    return connection


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what moves on a connection")
async def test_a_reader_that_takes_nothing_is_reset_and_others_are_left_alone(server: Server) -> None:
    clock = Clock()
    connections = Connections(server.port, BOUNDS, monotonic=clock)
    slow, idle = await opened(server.port, b"m"), await opened(server.port, b"i")
    assert connections.look() == []
    clock.now += 31
    assert connections.look() == ["slow_reader"]
    async with asyncio.timeout(10):
        while not server.ended:
            await asyncio.sleep(0.01)
    assert server.ended == 1
    assert slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
    assert connections.look() == []
    slow.close()
    idle.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what moves on a connection")
async def test_too_many_connections_become_as_many_as_there_may_be(server: Server) -> None:
    connections = Connections(server.port, BOUNDS)
    many = [await opened(server.port, b"i") for _ in range(5)]
    assert connections.look() == ["too_many", "too_many"]
    async with asyncio.timeout(10):
        while server.ended < 2:
            await asyncio.sleep(0.01)
    assert connections.look() == []
    assert many[0].recv(1) == b"", "the one that has said nothing for longest"
    for each in many:
        each.close()


# --- answers ----------------------------------------------------------------------------------------------------------


async def test_an_answer_that_nobody_takes_ends_in_time_and_gives_its_room_back() -> None:
    answers = Answers(100)
    for _ in range(3):
        with pytest.raises(TooSlow):
            async with answers.hold(100, 0.01):
                await asyncio.sleep(10)


async def test_who_takes_parts_has_all_the_time_again_for_each() -> None:
    async with Answers(100).hold(50, 0.2) as held:
        for _ in range(6):
            await asyncio.sleep(0.05)
            held.took()


async def test_where_too_much_is_held_the_one_that_has_taken_nothing_for_longest_makes_room() -> None:
    answers, ended = Answers(100), list[str]()

    async def reader(name: str, pause: float) -> None:
        try:
            async with answers.hold(40, 60.0) as held:
                for _ in range(200):
                    await asyncio.sleep(pause)
                    held.took()
        except TooSlow:
            ended.append(name)

    first = asyncio.create_task(reader("reads", 0.005))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(reader("does not", 30))
    await asyncio.sleep(0.02)
    third = asyncio.create_task(reader("new", 0.005))
    await second
    assert ended == ["does not"]
    await asyncio.gather(first, third)
    assert ended == ["does not"]


async def test_one_that_is_ending_already_makes_room_for_who_comes_at_that_moment() -> None:
    """Its time is over, and its task has not run since: the newcomer must not be told of it."""
    loop, answers, comes = asyncio.get_running_loop(), Answers(100), asyncio.Event()

    async def never_taken() -> None:
        async with answers.hold(100, 0.05):
            await asyncio.sleep(60)

    async def newcomer() -> bool:
        await comes.wait()
        async with answers.hold(100, 60.0):
            return True

    slow, other = asyncio.create_task(never_taken()), asyncio.create_task(newcomer())
    await asyncio.sleep(0)
    loop.call_later(0.04, comes.set)  # in one turn of the loop: the newcomer's task runs before the one that ended
    loop.call_later(0.03, time.sleep, 0.05)
    assert await other
    with pytest.raises(TooSlow):
        await slow


async def test_a_single_answer_may_be_larger_than_all_that_is_held() -> None:
    async with Answers(100).hold(1000, 1.0) as held:
        held.took()
