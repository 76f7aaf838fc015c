"""``python -m tests.tcp_proxy PORT TARGET``: hands on connections; killing it loses them all."""

from __future__ import annotations

import asyncio
import sys

from tests.ray_head import HOST


async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(port: int, target: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        its_reader, its_writer = await asyncio.open_connection(HOST, target)
        await asyncio.gather(hand_on(reader, its_writer), hand_on(its_reader, writer))

    server = await asyncio.start_server(connected, HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
