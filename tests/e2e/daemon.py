"""Starts moed for a test, with a gRPC client made from the .proto files. See e2e_test.py."""
import atexit
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("MOED_BINARY_DIR", SOURCE / "build/release/bin"))


def make_client_modules():
    """Runs protoc for Python into a temporary directory and makes it importable."""
    out = tempfile.mkdtemp(prefix="moed-e2e-proto.")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    plugin = shutil.which("grpc_python_plugin")
    if plugin is None:
        sys.exit("e2e: grpc_python_plugin is missing (package protobuf-compiler-grpc)")
    subprocess.run(["protoc", f"-I{SOURCE / 'proto'}", f"--python_out={out}", f"--grpc_out={out}",
                    f"--plugin=protoc-gen-grpc={plugin}", "moed/v1/inference.proto", "moed/v1/admin.proto",
                    "google/rpc/status.proto", "google/rpc/error_details.proto"], check=True)
    # google/ is a namespace the protobuf package owns: these two go under their own name.
    import google
    google.__path__.append(os.path.join(out, "google"))
    sys.path.insert(0, out)
    return out


PROTO_DIR = make_client_modules()

import grpc  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from moed.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc  # noqa: E402


class Daemon:
    """One moed process on free ports. Use as a context manager."""

    def __init__(self, *flags, ranks=2, listen="127.0.0.1:0"):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="moed-e2e."))
        self.log = open(self.dir / "moed.log", "wb")
        ready = self.dir / "ready.json"
        self.process = subprocess.Popen(
            [BIN / "moed", "--ranks", str(ranks), "--listen", listen, "--metrics-listen", "127.0.0.1:0",
             "--ready-file", str(ready), *flags], stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        wait_until(lambda: ready.exists() and ready.stat().st_size > 0 or self.process.poll() is not None, 120,
                   "moed did not become ready")
        if self.process.poll() is not None:
            raise AssertionError(f"moed ended with {self.process.returncode}:\n{self.text_of_log()}")
        addresses = json.loads(ready.read_text())
        self.address, self.metrics_address = addresses["listen"], addresses["metrics_listen"]
        self.channel = grpc.insecure_channel(self.address)
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def text_of_log(self):
        self.log.flush()
        return (self.dir / "moed.log").read_text(errors="replace")

    def status(self):
        return self.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=10)

    def engine_pids(self):
        return [rank.pid for rank in self.status().ranks]

    def http(self, path):
        """(status code, body) of a GET on the metrics port."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics_address}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def start(self, text=None, ids=None, timeout=60, **fields):
        """The stream of a Generate call."""
        request = inference_pb2.GenerateRequest(**fields)
        if ids is not None:
            request.token_ids.ids.extend(ids)
        else:
            request.text = text
        request.response.return_token_ids = True
        return self.inference.Generate(request, timeout=timeout)

    def generate(self, text=None, **fields):
        return collect(self.start(text, **fields))


class Result:
    def __init__(self):
        self.accepted = None
        self.texts, self.tokens, self.logprobs, self.finished = {}, {}, {}, {}
        self.usage = None
        self.num_deltas = 0

    @property
    def text(self):
        return self.texts.get(0, "")


def collect(stream):
    """Reads a whole Generate stream, checking the order of its events."""
    result = Result()
    for response in stream:
        kind = response.WhichOneof("event")
        assert result.usage is None, "an event after Done"
        assert (result.accepted is None) == (kind == "accepted"), "Accepted is not exactly the first event"
        if kind == "accepted":
            result.accepted = response.accepted
        elif kind == "delta":
            d = response.delta
            assert d.index not in result.finished, "a delta after Finished"
            result.num_deltas += 1
            result.texts[d.index] = result.texts.get(d.index, "") + d.text
            result.tokens.setdefault(d.index, []).extend(d.token_ids)
            result.logprobs.setdefault(d.index, []).extend(d.logprobs)
        elif kind == "finished":
            assert response.finished.index not in result.finished, "Finished twice"
            result.finished[response.finished.index] = response.finished
        elif kind == "done":
            result.usage = response.done.usage
    assert result.usage is not None, "the stream ended without Done"
    return result


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} within {seconds} s")
        time.sleep(0.02)


def process_is_gone(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
