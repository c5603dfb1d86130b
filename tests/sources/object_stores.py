"""Real interfaces of object stores on this machine: S3's, with accounts and rights, by moto; and Google's."""

from __future__ import annotations

import contextlib
import threading
import urllib.request
from collections import Counter, deque
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import quote
from urllib.request import urlopen

import boto3
from botocore.config import Config
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

ADMIN = {"aws_access_key_id": "admin", "aws_secret_access_key": "admin", "region_name": "us-east-1"}


class _Silent(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *args):
        pass


class S3Server:
    """One empty bucket, ``bucket``, on 127.0.0.1. ``faults``: (HTTP status, S3 error code) of the next answers about
    objects; ``requests`` counts those requests by method. ``port``: 0 for any. What was written stays in this process
    until :meth:`close`; with ``create=False`` it is served again."""

    root = "s3://bucket"

    def __init__(self, *, port: int = 0, create: bool = True) -> None:
        self.faults: deque[tuple[int, str]] = deque()
        self.requests: Counter[str] = Counter()
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", port, self._answer, threaded=True, request_handler=_Silent)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        if create:
            self.client("s3").create_bucket(Bucket="bucket")

    def client(self, service: str):
        """What the owner of the account uses, beside what is tested."""
        return boto3.client(service, endpoint_url=self.endpoint, config=Config(retries={"max_attempts": 0}), **ADMIN)

    def put(self, name: str, data: bytes) -> str:
        """Write an object; its URL."""
        self.client("s3").put_object(Bucket="bucket", Key=name, Body=data)
        return f"s3://bucket/{name}"

    def delete(self, name: str) -> None:
        self.client("s3").delete_object(Bucket="bucket", Key=name)

    def options(self, **more):
        """The storage options that lead here, of somebody who may read."""
        return {"key": "admin", "secret": "admin", "client_kwargs": {"endpoint_url": self.endpoint}, **more}

    def a_stranger(self):
        """Access keys of a user without any right; from now on rights are looked at."""
        iam = self.client("iam")
        iam.create_user(UserName="stranger")
        key = iam.create_access_key(UserName="stranger")["AccessKey"]
        self._moto("reset-auth", b"0")
        return {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}

    def close(self) -> None:
        self._moto("reset-auth", b"inf")
        self._moto("reset", b"")  # what moto keeps is the process's
        self.shut_down()

    def shut_down(self) -> None:
        """Nobody answers any more."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _moto(self, action: str, data: bytes) -> None:
        answer = Client(self._app).post(f"/moto-api/{action}", data=data, content_type="text/plain")
        assert answer.status_code == 200, answer.text

    def _answer(self, environ, start_response):
        request = Request(environ)
        if request.path.startswith("/bucket/") and request.method in ("GET", "HEAD"):
            self.requests[request.method] += 1
            if self.faults:
                status, code = self.faults.popleft()
                body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
                return Response(body, status=status, mimetype="application/xml")(environ, start_response)
        return self._app(environ, start_response)


class _GcsHandler(RequestHandler):
    def __init__(self, server, *arguments):
        self._faults = server
        super().__init__(*arguments)

    def do_GET(self):
        if self._faults.faults:
            self.send_response(self._faults.faults.popleft())
            self.send_header("Content-Length", "0")
            return self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # gcsfs asks two things at once, and hangs up when it has one
            super().do_GET()


class GcsServer:
    """A real interface of Google Cloud Storage in memory, that of ``gcp-storage-emulator``, with one bucket,
    ``bucket``. ``faults``: HTTP statuses of the next answers to reads."""

    root = "gs://bucket"

    def __init__(self) -> None:
        storage = Storage(use_memory_fs=True)
        create_bucket("bucket", storage)
        # Of several threads: gcsfs asks two things at once, and the emulator's own server waits for one connection.
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_GcsHandler, self, storage))
        self.faults: deque[int] = deque()
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, name: str, data: bytes) -> str:
        """Write an object; its URL."""
        url = f"{self.endpoint}/upload/storage/v1/b/bucket/o?uploadType=media&name={quote(name, safe='')}"
        urlopen(urllib.request.Request(url, data=data, method="POST")).read()
        return f"gs://bucket/{name}"

    def delete(self, name: str) -> None:
        url = f"{self.endpoint}/storage/v1/b/bucket/o/{quote(name, safe='')}"
        urlopen(urllib.request.Request(url, method="DELETE")).read()

    def options(self, **more):
        """The storage options that lead here."""
        return {"token": "anon", "endpoint_url": self.endpoint, **more}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
