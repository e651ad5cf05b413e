"""Servers that misbehave: one that speaks just enough MongoDB, and a proxy that can be cut."""

from __future__ import annotations

import contextlib
import itertools
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from typing import Any

import bson

HELLO = {
    "isWritablePrimary": True,
    "maxBsonObjectSize": 2**24,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "ok": 1.0,
}
OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013


class FakeMongo(socketserver.ThreadingTCPServer):
    """Answers each command with what `answer` makes of it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.answer = answer
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Conversation(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, struct.error):
            while True:
                length, request, _, opcode = struct.unpack("<iiii", self._read(16))
                self._reply(request, opcode, self._read(length - 16))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.request.recv(size - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data

    def _reply(self, request: int, opcode: int, body: bytes) -> None:
        if opcode == OP_QUERY:
            start = body.index(b"\0", 4) + 9
            head = struct.pack("<iqii", 8, 0, 0, 1)
            answer, code = head, OP_REPLY
        else:
            start = 5
            answer, code = struct.pack("<iB", 0, 0), OP_MSG
        size = struct.unpack_from("<i", body, start)[0]
        command = bson.decode(body[start : start + size])
        answer += bson.encode(self.server.answer(command))  # type: ignore[attr-defined]
        self.request.sendall(struct.pack("<iiii", 16 + len(answer), 1, request, code) + answer)


class Proxy:
    """Passes bytes to a server until it is cut; connections break and new ones are refused."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

    def mend(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            for connection in [listener, *self._open]:
                if connection is not None:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                    connection.close()
            self._open = []

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self.target)
                with self._lock:
                    if self._listener is not listener:  # cut meanwhile
                        client.close()
                        server.close()
                        return
                    self._open += [client, server]
                for ends in itertools.permutations((client, server)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
