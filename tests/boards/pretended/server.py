"""An asyncssh server whose logins land in a pretended board; for machines without OpenSSH's sshd."""

import asyncio
import sys
from pathlib import Path

import asyncssh


async def handle(process):
    folder = Path(sys.argv[2])
    environment = {"SSH_ORIGINAL_COMMAND": process.command or ""}
    child = await asyncio.create_subprocess_exec(
        str(folder / "login"), env=environment, stdin=-1, stdout=-1, stderr=-1, start_new_session=True
    )

    async def feed():
        try:
            while block := await process.stdin.read(1 << 16):
                child.stdin.write(block)
                await child.stdin.drain()
        except (asyncssh.Error, OSError, asyncssh.misc.BreakReceived):
            pass
        child.stdin.close()

    async def copy(source, sink):
        try:
            while block := await source.read(1 << 16):
                sink.write(block)
                await sink.drain()
        except (asyncssh.Error, OSError):
            pass

    feeding = asyncio.create_task(feed())
    await asyncio.gather(copy(child.stdout, process.stdout), copy(child.stderr, process.stderr))
    code = await child.wait()
    feeding.cancel()
    process.exit(code)


async def main():
    folder = Path(sys.argv[2])
    await asyncssh.listen(
        "127.0.0.1",
        int(sys.argv[1]),
        server_host_keys=[str(folder / "host")],
        authorized_client_keys=str(folder / "user.pub"),
        process_factory=handle,
        encoding=None,
    )
    await asyncio.Event().wait()


asyncio.run(main())
