"""A program that behaves like a SAM 3 pool towards whoever starts it: /health on a unix socket, nothing else.

`refuse` as the first argument: say why and end at once. Its health tells what it sees of the environment.
"""

import asyncio
import json
import os
import sys


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request per connection."""
    await reader.readuntil(b"\r\n\r\n")
    seen = {name: value for name, value in os.environ.items() if name.startswith("GATEWAY_")}
    body = json.dumps({"status": "ready", "pid": os.getpid(), "seen": seen}).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def main() -> None:
    """Listen where GATEWAY_POOL_SOCKET says."""
    server = await asyncio.start_unix_server(answer, os.environ["GATEWAY_POOL_SOCKET"])
    await server.serve_forever()


if sys.argv[1:] == ["refuse"]:
    sys.exit("the weights are not there")
asyncio.run(main())
