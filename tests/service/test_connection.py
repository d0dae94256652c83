"""Clients that wait at the door are let in together."""

import asyncio
import contextlib
import socket

import uvloop

from service.connection import Door


def test_all_who_wait_come_in_at_once_and_nobody_after_the_door_is_closed():
    inside = []

    class Client(asyncio.Protocol):
        def connection_made(self, transport):
            inside.append(transport)

    async def scenario():
        with contextlib.ExitStack() as opened:
            listening = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
            listening.setblocking(False)
            door = Door(listening, Client, ssl=None)
            for _ in range(50):
                opened.enter_context(socket.create_connection(listening.getsockname()))
            for _ in range(10):  # turns of the loop, of which libuv would let in one each
                await asyncio.sleep(0)
            assert len(inside) == 50
            door.close()
            opened.enter_context(socket.create_connection(listening.getsockname()))
            await asyncio.sleep(0.01)
            assert len(inside) == 50
            for transport in inside:
                transport.close()

    uvloop.run(scenario())
