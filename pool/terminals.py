"""Terminal sessions by tenant: who may open, see, attach to and end them.

A session's ticket lets its holder attach to this one session and nothing else, so that a browser needs no API key.
Tickets live in memory, as the sessions do. Not here: what a session is (`runtime.containers.terminals`).
"""

from __future__ import annotations

import builtins
import hmac
import secrets
from urllib.parse import quote

from pool.clock import iso
from pool.commands import Places, link_of
from pool.paging import newest_first
from pool.quotas import check_fixed
from quilt_fn.errors import Conflict, SessionNotFound
from quilt_fn.model.terminal import TerminalCreate, TerminalRecord, TerminalSize
from runtime.containers.api import Command, CommandNotStarted
from runtime.containers.terminals import TTL_S, Attachment, Session, TerminalSessions

SESSIONS_MAX = 100
"""Of a tenant, on one node: each keeps up to half a megabyte of what it showed."""
TICKET_PREFIX = "tkt_"
DEFAULT_SHELL = ("/bin/sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash -i; fi; exec sh -i")
ENVIRONMENT = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


class Terminals:
    """Made on a running loop. `close` ends every session."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._sessions = TerminalSessions(lambda: f"ses_{secrets.token_hex(10)}")
        self._tickets: dict[str, str] = {}

    async def create(self, tenant_id: str, body: TerminalCreate) -> TerminalRecord:
        """Raises ContainerNotFound, ContainerNotRunning; Conflict where the shell can't be started,
        QuotaExceeded."""
        link = link_of(self._places.running(tenant_id, body.container_id))
        used = len(self._sessions.of(tenant_id))
        hint = "end some with DELETE /api/terminal/sessions/<id>"
        check_fixed("terminal_sessions", SESSIONS_MAX, used, "terminal sessions are open", hint)
        own = self._places.environment(tenant_id, body.container_id)
        command = Command(
            (body.shell,) if body.shell else DEFAULT_SHELL,
            {**ENVIRONMENT, **own, **body.environment},
            body.working_directory or self._places.working_directory(tenant_id, body.container_id),
            body.user,
            (body.cols, body.rows),
        )
        try:
            session = await self._sessions.create(tenant_id, body.container_id, link, command)
        except CommandNotStarted as error:
            raise Conflict(f"the shell could not be started: {error}", details={"exit_code": error.exit_code}) from None
        for session_id in list(self._tickets):
            if not self._sessions.has(session_id):
                del self._tickets[session_id]
        ticket = self._tickets[session.session_id] = TICKET_PREFIX + secrets.token_urlsafe(32)
        return _record(session, ticket)

    def list(self, tenant_id: str, limit: int, cursor: str | None) -> tuple[builtins.list[TerminalRecord], str | None]:
        """A page of them, newest first, and the next page's cursor. Raises InvalidValue for what is no cursor."""
        records = [_record(session) for session in self._sessions.of(tenant_id)]
        return newest_first(records, lambda record: f"{record.created_at}~{record.session_id}", limit, cursor)

    def get(self, tenant_id: str, session_id: str) -> TerminalRecord:
        return _record(self._own(tenant_id, session_id))

    async def delete(self, tenant_id: str, session_id: str) -> TerminalRecord:
        """End it, and answer how it ended."""
        session = self._own(tenant_id, session_id)
        session.end("deleted")
        await session.wait()
        return _record(session)

    def resize(self, tenant_id: str, session_id: str, size: TerminalSize) -> TerminalRecord:
        session = self._own(tenant_id, session_id)
        session.resize(size.cols, size.rows)
        return _record(session)

    def attach(self, tenant_id: str, session_id: str) -> Attachment:
        """Raises SessionNotFound, Unavailable (too many clients)."""
        return self._own(tenant_id, session_id).attach()

    def attach_by_ticket(self, ticket: str, session_id: str) -> Attachment:
        """Raises SessionNotFound also for a wrong ticket: who has none learns nothing."""
        kept = self._tickets.get(session_id)
        session = self._sessions.get(session_id)
        if kept is None or not hmac.compare_digest(kept.encode(), ticket.encode()):
            raise SessionNotFound(f"there is no terminal session {session_id!r} for this ticket")
        return session.attach()

    async def close(self) -> None:
        await self._sessions.close()
        self._tickets.clear()

    def _own(self, tenant_id: str, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session.tenant_id != tenant_id:
            raise SessionNotFound(f"there is no terminal session {session_id!r}")
        return session


def _record(session: Session, ticket: str | None = None) -> TerminalRecord:
    token = f"&token={quote(ticket, safe='')}" if ticket else ""
    return TerminalRecord(
        session_id=session.session_id,
        container_id=session.container_id,
        state="ended" if session.ended else "running",
        attach_url=f"/ws/terminal/attach?session_id={session.session_id}{token}",
        page_url=f"/terminal/{session.session_id}" + (f"#token={ticket}" if ticket else ""),
        cols=session.size[0],
        rows=session.size[1],
        pid=session.pid,
        clients=len(session.clients),
        exit_code=session.exit_code,
        reason=session.reason if session.ended else None,
        created_at=iso(session.created_at),
        last_active_at=iso(session.last_active_at),
        ended_at=iso(session.ended_at) if session.ended_at is not None else None,
        expires_at=iso(session.created_at + TTL_S),
    )
