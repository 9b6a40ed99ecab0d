"""Where webhooks go in benchmarks: acknowledges all, counts the different ones. `python -m bench.sink PORT`."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web


def main() -> None:
    seen: set[str] = set()

    async def take(request: web.Request) -> web.Response:
        await request.read()
        seen.add(request.headers["webhook-id"])
        return web.Response(status=204)

    async def count(_: web.Request) -> web.Response:
        return web.json_response({"webhooks": len(seen)})

    app = web.Application()
    app.router.add_post("/hook", take)
    app.router.add_get("/count", count)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
