"""Small HTTP servers of the tests' own, where somebody else's would stand."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Logs nothing; a subclass has ``reply``, which answers what was got or posted."""

    def do_POST(self):
        self.reply()

    def do_GET(self):
        self.reply()

    def asked(self):
        """The body of the request."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, body, status=200, **headers):
        """Answer with ``body``; underscores in the names of headers stand for hyphens."""
        self.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def listening(handler):
    """A server on a free loopback port with its ``url``, until the end of the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
