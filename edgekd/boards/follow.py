"""A job from the host's side: its files sent, started or joined, watched to its end, cancelled on request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekd.boards.job import BoardJob
from edgekd.boards.options import Patience
from edgekd.boards.remote import Board, Refused
from edgekd.core.errors import BuildError, EdgeKDError
from edgekd.core.events import Event, Listener

_FINAL = ("done", "failed", "cancelled")
_CANCEL_S = 45.0
_MIB = 1 << 20
_HINTS = {
    "out_of_memory": "stop other programs there, add swap, or limit the workspace",
    "disk_full": "free some space there; old jobs lie in ~/.edgekd/jobs",
    "timeout": "allow more time, or see its log",
    "lost": "the same command starts it again; where the system ends the processes of a login with its session, "
    "allow them there with `loginctl enable-linger`",
}
State = Mapping[str, Any]


async def done_job(board: Board, job: BoardJob, model: Path, patience: Patience, report: Listener) -> dict[str, Any]:
    """Bring a job to its end on a board, whatever is there of it already.

    Args:
        board: The open board.
        job: What to do.
        model: The ONNX file that it names.
        patience: Pauses, and how often a job is started again after the board was.
        report: Told about progress.

    Returns:
        Its last state: `done`, or `failed` or `cancelled` with a reason.

    Raises:
        BuildError: A file cannot be sent, or the runner was lost without a restart.
        TargetError: The board is gone, or another answers in its place.
    """
    try:
        state = await _started(board, job, model, report)
        for _ in range(patience.restarts + 1):
            state = await _watched(board, job, state, patience, report)
            if state["status"] != "lost":
                return state
            if not state["is_rebooted"]:
                break
            report(Event("note", "", f"the board was restarted while {state['was']}; the job goes on"))
            state = await _started(board, job, model, report)
        if not state["is_rebooted"]:
            await board.call("cancel", job.digest)  # ends what the runner left behind
    except asyncio.CancelledError:
        await _cancelled(board, job, report)
        raise
    raise BuildError(
        f"the job was lost while {state['was']}: its runner was ended "
        f"({_last_line(state['runner_tail']) or 'no word of it'}); {_HINTS['lost']}"
    )


def failure_of(state: State) -> EdgeKDError:
    """Return the error that a state which is not `done` stands for, with the end of the builder's log."""
    reason = state["reason"]
    hint = _HINTS.get(reason["kind"], "")
    log = "\n".join(f"  {line}" for line in str(state["log_tail"]).splitlines()[-12:])
    return BuildError(
        reason["message"] + (f"; {hint}" if hint else "") + (f"; the end of its log:\n{log}" if log else "")
    )


async def _started(board: Board, job: BoardJob, model: Path, report: Listener) -> dict[str, Any]:
    state = await board.call("status", job.digest)
    if state["is_alive"] or state["status"] == "done":
        report(Event("note", "", f"joins the job that is there: {state['status']}"))
        return state
    entry = job.document["files"][0]
    await board.send(model, entry["sha256"], _sending(report))
    try:
        return await board.call("start", job.digest, stdin=job.content)
    except Refused as refused:
        if refused.kind != "missing":
            raise
    await board.send(model, entry["sha256"], _sending(report))
    return await board.call("start", job.digest, stdin=job.content)


async def _watched(
    board: Board, job: BoardJob, state: dict[str, Any], patience: Patience, report: Listener
) -> dict[str, Any]:
    while state["status"] not in (*_FINAL, "lost"):
        report(Event("progress", "", _words(state), int(state.get("now_s", 0) - state.get("started_s", 0))))
        seconds = patience.quiet_s if state["status"] == "measuring" else patience.poll_s
        state = await board.call("wait", job.digest, repr(state["updated_s"]), repr(seconds))
    return state


async def _cancelled(board: Board, job: BoardJob, report: Listener) -> None:
    """End the job on the board although this task is being cancelled itself."""
    report(Event("note", "", "stopping the job on the board"))
    try:
        state = await asyncio.wait_for(asyncio.shield(board.call("cancel", job.digest)), _CANCEL_S)
        report(Event("note", "", f"the job on the board is {state['status']}"))
    except Refused:
        report(Event("note", "", "no job had been started there"))
    except (EdgeKDError, asyncio.TimeoutError) as error:
        report(Event("note", "", f"the job on the board could not be stopped: {error or 'no answer'}"))


def _sending(report: Listener) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        report(Event("progress", "", f"sent {done / _MIB:.1f} of {total / _MIB:.1f} MiB", done, total))

    return tell


def _words(state: State) -> str:
    last = _last_line(str(state.get("log_tail", "")))
    step = f" ({state['step']})" if state.get("step") else ""
    return f"{state['status']}{step}" + (f": {last[:100]}" if last else "")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
