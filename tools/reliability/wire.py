"""A TCP relay on one machine that goes wrong on request: cuts after so many bytes, stalls, or passes 1 kB/s."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass

_PIECE_BYTES = 1 << 14


@dataclass
class Trouble:
    """What goes wrong next.

    Attributes:
        cut_after_bytes: Bytes towards the device after which every connection is dropped.
        stall_after_bytes: Bytes towards the device after which nothing passes, for `stall_s`.
        stall_s: How long.
        bytes_per_s: Speed towards the device; None for as fast as it goes.
        is_down: New connections are refused.
    """

    cut_after_bytes: int | None = None
    stall_after_bytes: int | None = None
    stall_s: float = 1.0
    bytes_per_s: float | None = None
    is_down: bool = False


class Wire:
    """A relay from a port of its own to another port of this machine.

    Args:
        far_port: Where to.
        host: Address of both.
    """

    def __init__(self, far_port: int, host: str = "127.0.0.1") -> None:
        self._far, self._host = far_port, host
        self._loop = asyncio.new_event_loop()
        self._writers: list[asyncio.StreamWriter] = []
        self.trouble = Trouble()
        self.bytes_sent = self.connections = self.cuts = 0
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError("the relay did not start")

    def cut(self) -> None:
        """Drop every connection now."""
        self._loop.call_soon_threadsafe(self._drop)

    def close(self) -> None:
        """End the relay."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._relay, self._host, 0))
        self.port = int(server.sockets[0].getsockname()[1])
        started.set()
        self._loop.run_forever()

    async def _end(self) -> None:
        """Drop connections and let their tasks end by themselves."""
        self.trouble = Trouble(is_down=True)
        self._drop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.trouble.is_down:
            writer.transport.abort()
            return
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(self._host, self._far)
        self._writers += [writer, far_writer]
        there = asyncio.ensure_future(self._there(reader, far_writer))
        back = asyncio.ensure_future(self._back(far_reader, writer))
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.05)
        for side in (writer, far_writer):
            side.close()

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(self._piece_bytes()):
                if self._is_cut(len(piece)):
                    return
                await self._held_up(len(piece))
                self.bytes_sent += len(piece)
                if writer.is_closing():
                    return
                writer.write(piece)
                await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(_PIECE_BYTES):
                if writer.is_closing():
                    return
                writer.write(piece)
                await writer.drain()

    def _piece_bytes(self) -> int:
        speed = self.trouble.bytes_per_s
        return _PIECE_BYTES if speed is None else max(64, min(_PIECE_BYTES, int(speed / 4)))

    def _is_cut(self, length: int) -> bool:
        trouble = self.trouble
        if trouble.cut_after_bytes is None:
            return False
        trouble.cut_after_bytes -= length
        if trouble.cut_after_bytes >= 0:
            return False
        trouble.cut_after_bytes = None
        self._drop()
        return True

    async def _held_up(self, length: int) -> None:
        trouble = self.trouble
        if trouble.bytes_per_s is not None:
            await asyncio.sleep(min(length / trouble.bytes_per_s, 2.0))
        if trouble.stall_after_bytes is not None:
            trouble.stall_after_bytes -= length
            if trouble.stall_after_bytes < 0:
                trouble.stall_after_bytes = None
                until = time.monotonic() + trouble.stall_s
                while time.monotonic() < until and not self.trouble.is_down:
                    await asyncio.sleep(0.05)

    def _drop(self) -> None:
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
