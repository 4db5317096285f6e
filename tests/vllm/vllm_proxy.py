"""A proxy before a server, which a test can close: to its clients the server is gone."""

import contextlib
import socket
import threading
import urllib.parse


class Proxy:
    """Passes the bytes of each connection on, until `close`. url: its own address."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._target, self._open = (parts.hostname, parts.port), True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Refuses new connections, and ends the present ones."""
        self._open = False
        for s in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def _accept(self) -> None:
        while self._open:
            with contextlib.suppress(OSError):
                client = self._listener.accept()[0]
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
