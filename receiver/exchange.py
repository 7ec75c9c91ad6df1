"""One request and its answer on a guarded connection.

Beyond uvicorn's own: head and body of a short answer leave in one write (one packet, one system call), an answer that
is given before its request was whole is the last on the connection, and reading stops while later requests wait.
"""

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

if TYPE_CHECKING:
    from receiver.guard import Guard
