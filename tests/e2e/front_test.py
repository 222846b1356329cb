#!/usr/bin/env python3
"""moed behind nginx, as deploy/front/nginx.conf has it: good clients are served, hostile ones never reach moed."""
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from daemon import BIN, SOURCE, Daemon, collect, grpc, inference_pb2, inference_pb2_grpc, admin_pb2, admin_pb2_grpc
from daemon import wait_until


def find_nginx():
    """nginx of the system, or as tests/run.sh unpacks it."""
    return os.environ.get("MOED_NGINX") or shutil.which(
        "nginx", path=f"/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:{SOURCE}/build/tools/usr/sbin")


DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def hpack_int(value, prefix_bits, first):
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes([first | value])
    out = [first | limit]
    value -= limit
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + [value])


def hpack_field(name, value, first=0x00):
    """A literal field; first=0x40 adds it to the dynamic table."""
    name, value = name.encode(), value.encode()
    return bytes([first]) + hpack_int(len(name), 7, 0) + name + hpack_int(len(value), 7, 0) + value


def request_block(path="/moed.v1.InferenceService/GetModel", te="trailers"):
    return b"".join(hpack_field(*f) for f in [
        (":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost"), ("te", te),
        ("content-type", "application/grpc"), ("authorization", f"Bearer {Front.token}")])


def call(stream, block):
    """The frames of one call with an empty message."""
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, bytes(5))


class RawClient:
    """A TLS connection that says whatever it is told to say, after HTTP/2's preface."""

    def __init__(self, front):
        context = ssl.create_default_context(cafile=front.ca)
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(socket.create_connection(("localhost", front.port), timeout=20),
                                          server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        self.cut = False  # the peer took no more
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            self.cut = True

    def frames(self, until=lambda kind, flags, stream: False):
        """What the peer says until it closes, as (kind, flags, stream, payload); ends after what `until` names."""
        data, out = b"", []
        while True:
            while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
                size = int.from_bytes(data[:3], "big")
                out.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:9 + size]))
                data = data[9 + size:]
                if until(*out[-1][:3]):
                    return out
            try:
                more = self.socket.recv(65536)
            except OSError:
                more = b""
            if not more:
                self.cut = True
                return out
            data += more

    def close(self):
        self.socket.close()


class Front:
    """A daemon on a unix socket with nginx in front of it."""

    token = ""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="moed-front."))
        self.dir.chmod(0o755)
        self.ca = str(self.dir / "tls.crt")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                        "-keyout", self.dir / "tls.key", "-out", self.ca], check=True, stderr=subprocess.PIPE)
        line = subprocess.run([BIN / "moedctl", "token", "--tenant", "tester", "--methods", "all",
                               "--secret-file", self.dir / "token"], check=True, stdout=subprocess.PIPE).stdout
        (self.dir / "tokens").write_bytes(line)
        Front.token = (self.dir / "token").read_text().strip()
        self.daemon = Daemon("--socket-mode", "0666", "--admin-listen", f"unix:{self.dir}/admin.sock", "--token-file",
                             str(self.dir / "tokens"), listen=f"unix:{self.dir}/moed.sock", ranks=1)
        self.start_nginx()
        self.channel = grpc.secure_channel(f"localhost:{self.port}", grpc.ssl_channel_credentials(
            pathlib.Path(self.ca).read_bytes()))
        self.inference = inference_pb2_grpc.InferenceServiceStub(self.channel)

    def start_nginx(self):
        with socket.socket() as probe:  # nginx does not say which port it got for 0
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        text = (SOURCE / "deploy/front/nginx.conf").read_text()
        for old, new in [(r"^user .*;$", ""), (r"/run/nginx.pid", f"{self.dir}/nginx.pid"),
                         (r"/var/log/nginx/", f"{self.dir}/"), (r"/etc/moed/tls", f"{self.dir}/tls"),
                         (r"/run/moed/moed.sock", f"{self.dir}/moed.sock"), (r"listen 443 ", f"listen 127.0.0.1:{self.port} "),
                         (r"worker_processes auto", "daemon off; worker_processes 1"),
                         (r"^http \{$", f"http {{ client_body_temp_path {self.dir}/body; proxy_temp_path {self.dir}/p; "
                                        f"fastcgi_temp_path {self.dir}/f; uwsgi_temp_path {self.dir}/u; "
                                        f"scgi_temp_path {self.dir}/s;")]:
            text, count = re.subn(old, new, text, flags=re.MULTILINE)
            assert count >= 1, f"deploy/front/nginx.conf has no {old}"
        conf = self.dir / "nginx.conf"
        conf.write_text("user root;\n" + text if os.geteuid() == 0 else text)
        self.nginx = subprocess.Popen([find_nginx(), "-e", self.dir / "error.log", "-c", conf])
        wait_until(lambda: self.accepts() or self.nginx.poll() is not None, 20, "nginx did not listen")
        assert self.nginx.poll() is None, (self.dir / "error.log").read_text()

    def accepts(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self):
        self.channel.close()
        self.nginx.send_signal(signal.SIGTERM)
        self.nginx.wait()
        self.daemon.__exit__()
        shutil.rmtree(self.dir, ignore_errors=True)

    def metadata(self):
        return [("authorization", f"Bearer {Front.token}")]

    def num_handled(self):
        """Calls that moed has answered, whatever it answered."""
        _, text = self.daemon.http("/metrics")
        return sum(float(v) for v in re.findall(r"^moed_grpc_server_handled_total\{[^}]*\} (\S+)", text, re.MULTILINE))

    def serves(self):
        """Whether a good call succeeds; the rate of this address may be used up for a moment."""
        try:
            self.inference.GetModel(inference_pb2.GetModelRequest(), metadata=self.metadata(), timeout=10)
            return True
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.UNAVAILABLE, e
            return False


@unittest.skipUnless(find_nginx(), "nginx is not installed")
class FrontTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.front = Front()

    @classmethod
    def tearDownClass(cls):
        cls.front.close()

    def assert_never_reached(self, before):
        self.assertEqual(self.front.num_handled(), before, "moed has seen it")
        self.assertIsNone(self.front.daemon.process.poll())
        wait_until(self.front.serves, 20, "nginx does not serve any more")

    def attack(self, *data):
        """Sends it all, then reads until nginx ends the connection. Returns the last frames."""
        before = self.front.num_handled()
        client = RawClient(self.front)
        try:
            for piece in data:
                client.send(piece)
                if client.cut:
                    break
            frames = client.frames()
        finally:
            client.close()
        self.assertTrue(client.cut)
        self.assert_never_reached(before)
        return frames

    def is_answered(self, block):
        """Whether moed answers a call with these headers; nginx's own answers, such as that the rate is used up, are
        pages of HTML."""
        client = RawClient(self.front)
        client.send(call(1, block))
        frames = client.frames(until=lambda kind, flags, stream: stream == 1 and (kind == DATA or flags & END_STREAM))
        client.close()
        return bool(frames) and frames[-1][0] == DATA and b"demo" in frames[-1][3]

    def test_the_raw_client_is_served_when_it_behaves(self):
        before = self.front.num_handled()
        wait_until(lambda: self.is_answered(request_block()), 20, "no answer")
        self.assertEqual(self.front.num_handled(), before + 1)

    def test_a_generation_streams_through_it_as_it_comes(self):
        request = inference_pb2.GenerateRequest(text="Once upon a time")
        request.sampling.temperature = 0
        request.stopping.max_tokens = 40
        request.stopping.ignore_eos = True
        stream = self.front.inference.Generate(request, metadata=self.front.metadata(), timeout=60)
        result = collect(stream)
        self.assertEqual(result.usage.num_generated_tokens, 40)
        self.assertGreater(result.num_deltas, 5, "the deltas were held back")
        direct = inference_pb2_grpc.InferenceServiceStub(self.front.daemon.channel).Generate(
            request, metadata=self.front.metadata(), timeout=60)
        self.assertEqual(collect(direct).text, result.text)

    def test_a_long_prompt_goes_through_and_a_body_above_the_limit_does_not(self):
        tokens = self.front.inference.Tokenize(inference_pb2.TokenizeRequest(text="word " * 100_000),
                                               metadata=self.front.metadata(), timeout=60)
        self.assertGreater(len(tokens.token_ids), 1000)
        before = self.front.num_handled()
        with self.assertRaises(grpc.RpcError):
            self.front.inference.Tokenize(inference_pb2.TokenizeRequest(text="x" * (9 << 20)),
                                          metadata=self.front.metadata(), timeout=60)
        self.assert_never_reached(before)

    def test_admin_calls_are_not_reachable_from_outside(self):
        before = self.front.num_handled()
        with self.assertRaises(grpc.RpcError) as caught:
            admin_pb2_grpc.AdminServiceStub(self.front.channel).GetStatus(
                admin_pb2.GetStatusRequest(), metadata=self.front.metadata(), timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
        self.assert_never_reached(before)

    def test_without_a_token_moed_refuses(self):
        codes = []

        def is_through():  # nginx refuses first while the rate of this address is used up
            with self.assertRaises(grpc.RpcError) as caught:
                self.front.inference.GetModel(inference_pb2.GetModelRequest(), timeout=10)
            codes.append(caught.exception.code())
            return codes[-1] != grpc.StatusCode.UNAVAILABLE

        wait_until(is_through, 20, "nginx does not let it through")
        self.assertEqual(codes[-1], grpc.StatusCode.UNAUTHENTICATED)

    def test_a_field_above_the_limit_is_cut_off(self):
        frames = self.attack(call(1, request_block() + hpack_field("x-big", "b" * 3000)))
        self.assertIn(GOAWAY, [f[0] for f in frames])

    def test_many_fields_above_the_limit_are_cut_off(self):
        block = request_block() + b"".join(hpack_field(f"x-{i}", "v" * 100) for i in range(100))
        self.attack(call(1, block))

    def test_an_hpack_bomb_is_cut_off(self):
        # One field of 1.9 KB in the dynamic table, then 14,000 references to it of one byte each: 26 MB of headers.
        block = request_block() + hpack_field("x-bomb", "b" * 1900, first=0x40) + b"\xbe" * 14_000
        self.attack(call(1, block))

    def test_lengths_with_endless_padding_are_cut_off(self):
        # CVE-2023-33953: integers of HPACK padded with zeros without end.
        self.attack(frame(HEADERS, 0, 1, request_block() + b"\x00\x7f" + b"\x80" * 16000),
                    *[frame(CONTINUATION, 0, 1, b"\x80" * 16000) for _ in range(200)])

    def test_endless_continuations_are_cut_off(self):
        piece = hpack_field("x-more", "m" * 1000) * 15
        self.attack(frame(HEADERS, 0, 1, request_block()),
                    *[frame(CONTINUATION, 0, 1, piece) for _ in range(1000)])

    def test_streams_that_are_reset_at_once_are_cut_off(self):
        # CVE-2023-44487: many times what one connection may open.
        block = request_block()
        burst = [b"".join(frame(HEADERS, END_HEADERS, s, block) + frame(RST_STREAM, 0, s, struct.pack(">I", 8))
                          for s in range(first, first + 200, 2)) for first in range(1, 10_000, 200)]
        self.attack(*burst)

    def test_the_headers_of_cve_2023_1428_do_not_arrive(self):
        # They abort gRPC 1.51 when the rest of the headers passes its limit. nginx drops the one and, because it is not
        # "trailers", the other: without it gRPC refuses the call before moed sees it.
        odd = hpack_field("grpclb_client_stats", "x")
        wait_until(lambda: self.is_answered(request_block() + odd), 20, "grpclb_client_stats was not dropped")
        before = self.front.num_handled()
        self.assertFalse(self.is_answered(request_block(te="x") + odd))
        self.assert_never_reached(before)
        filler = b"".join(hpack_field(f"x-{i}", "v" * 1500) for i in range(8))
        self.attack(call(1, request_block(te="x") + odd + filler))


if __name__ == "__main__":
    if not find_nginx():
        print("front_test: SKIPPED: there is no nginx here (Debian: apt-get install nginx-light, or set MOED_NGINX); "
              "the front of deploy/front is NOT tested", file=sys.stderr, flush=True)
    unittest.main()
