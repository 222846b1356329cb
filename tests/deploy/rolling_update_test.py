"""A rolling update under load loses no request: two servers are replaced, one after the other, at their addresses.

The client is as deploy/kubernetes/README.md says: both addresses, round_robin, health checking, retries. Nothing here retries by
itself: every call that fails is a failure of the test.
"""
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/e2e"))

from daemon import BIN, collect, grpc, inference_pb2, inference_pb2_grpc, wait_until  # noqa: E402

NUM_CLIENTS = 4
SERVICE_CONFIG = re.search(r"```json\n(.*?)```", (SOURCE / "deploy/kubernetes/README.md").read_text(), re.DOTALL).group(1)


class Server:
    """One moed with one rank; `listen` may name the address of a server that has ended."""

    def __init__(self, folder, name, listen="127.0.0.1:0"):
        ready = folder / f"{name}.ready"
        self.log = open(folder / f"{name}.log", "wb")
        self.process = subprocess.Popen(
            [BIN / "moed", "--threads", "1", "--num-blocks", "512", "--listen", listen, "--metrics-listen", "",
             "--ready-file", ready], stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        wait_until(lambda: ready.exists() or self.process.poll() is not None, 60, f"{name} is not ready")
        if self.process.poll() is not None:
            raise AssertionError((folder / f"{name}.log").read_text())
        self.address = json.loads(ready.read_text())["listen"]

    def drain(self):
        """What the kubelet does after preStop; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()


class Client(threading.Thread):
    """Generates until it is told to end; keeps what went wrong."""

    def __init__(self, channel, number):
        super().__init__()
        self.stub = inference_pb2_grpc.InferenceServiceStub(channel)
        self.number = number
        self.end = threading.Event()
        self.num_done = 0
        self.errors = []

    def run(self):
        while not self.end.is_set():
            request = inference_pb2.GenerateRequest(
                text=f"Once upon a time {self.number} {self.num_done}", sampling=inference_pb2.SamplingOptions(temperature=0),
                stopping=inference_pb2.StoppingOptions(max_tokens=40, ignore_eos=True))
            try:
                result = collect(self.stub.Generate(request, timeout=60))
                assert result.usage.num_generated_tokens == 40
                self.num_done += 1
            except Exception as e:  # whatever it is, it is a request that was lost
                self.errors.append(e)


class RollingUpdateTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="moed-rolling.")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start(self, name, listen="127.0.0.1:0"):
        server = Server(self.folder, name, listen)
        self.addCleanup(server.close)
        return server

    def start_clients(self, servers):
        channel = grpc.insecure_channel("ipv4:" + ",".join(s.address for s in servers),
                                        [("grpc.service_config", SERVICE_CONFIG), ("grpc.enable_retries", 1),
                                         ("grpc.max_reconnect_backoff_ms", 500)])
        self.addCleanup(channel.close)
        clients = [Client(channel, i) for i in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        return clients

    def await_progress(self, clients, num_requests=3):
        goals = [c.num_done + num_requests for c in clients]
        wait_until(lambda: any(c.errors for c in clients) or all(c.num_done >= g for c, g in zip(clients, goals)), 60,
                   "clients do not get on")

    def test_replacing_both_servers_fails_no_request(self):
        servers = [self.start("a"), self.start("b")]
        clients = self.start_clients(servers)
        self.await_progress(clients)
        for i, old in enumerate(servers):
            self.assertEqual(old.drain(), 0)
            self.await_progress(clients)  # on the other one alone
            self.start(f"new-{i}", listen=old.address)
            self.await_progress(clients)
        for client in clients:
            client.end.set()
            client.join()
        self.assertEqual([str(e) for c in clients for e in c.errors], [])
        print(f"rolling update: {sum(c.num_done for c in clients)} requests, none lost")


if __name__ == "__main__":
    unittest.main()
