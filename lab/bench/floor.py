"""The floor: aiohttp's low-level server returns constant bytes on a Unix socket. ``floor.py SOCKET``."""

import asyncio
import sys

from aiohttp import web


async def _serve(path: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * 43, content_type="application/octet-stream")

    loop = asyncio.get_running_loop()
    await loop.create_unix_server(web.Server(answer, access_log=None), path, backlog=1024)
    await asyncio.Event().wait()


asyncio.run(_serve(sys.argv[1]))
