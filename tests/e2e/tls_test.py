#!/usr/bin/env python3
"""moed and moedctl with mutual TLS, tokens and an admin socket; files that change while it serves."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from daemon import BIN, Daemon, grpc, inference_pb2, inference_pb2_grpc, wait_until


def run(*command, **kwargs):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **kwargs).stdout.decode()


class Authority:
    """A CA in a directory, and what it issues."""

    def __init__(self, directory, name):
        self.dir, self.name = directory, name
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
            "-subj", f"/CN={name}", "-keyout", directory / f"{name}.key", "-out", self.certificate)

    @property
    def certificate(self):
        return self.dir / f"{self.name}.crt"

    def issue(self, name):
        """Paths of a certificate and its key."""
        key, request, certificate = (self.dir / f"{self.name}-{name}.{end}" for end in ("key", "csr", "crt"))
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", key, "-out", request)
        run("openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.dir / f"{self.name}.key",
            "-days", "1", "-CAcreateserial", "-extfile", "/dev/stdin", "-out", certificate,
            input=b"subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        return certificate, key


def replace(source, target):
    """Puts a copy of a file in the place of another one, at once."""
    shutil.copy(source, f"{target}.new")
    os.rename(f"{target}.new", target)


class TlsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="moed-tls."))
        cls.old, cls.new = Authority(cls.dir, "old"), Authority(cls.dir, "new")
        cls.tokens = cls.dir / "tokens"
        cls.use(cls.old)
        cls.tokens.write_text(cls.token("user", "inference") + cls.token("operator", "admin"))
        cls.daemon = Daemon("--tls-cert", str(cls.dir / "tls.crt"), "--tls-key", str(cls.dir / "tls.key"),
                            "--tls-client-ca", str(cls.dir / "client-ca.crt"), "--token-file", str(cls.tokens),
                            "--admin-listen", f"unix:{cls.dir}/admin.sock", "--reload-interval-s", "0.05", ranks=1)
        cls.server = cls.daemon.address.replace("127.0.0.1", "localhost")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.__exit__()
        shutil.rmtree(cls.dir, ignore_errors=True)

    @classmethod
    def use(cls, authority):
        certificate, key = authority.issue("server")
        replace(authority.certificate, cls.dir / "client-ca.crt")
        replace(key, cls.dir / "tls.key")
        replace(certificate, cls.dir / "tls.crt")

    @classmethod
    def token(cls, name, methods):
        return run(BIN / "moedctl", "token", "--tenant", name, "--methods", methods, "--secret-file", cls.dir / name)

    def moedctl(self, authority, token, *command, server=None):
        """(exit code, output and errors) of moedctl as a client of one authority."""
        certificate, key = authority.issue("client")
        tls = [] if server else ["--tls-ca", authority.certificate, "--tls-cert", certificate, "--tls-key", key]
        done = subprocess.run([str(c) for c in [
            BIN / "moedctl", "--server", server or self.server, "--timeout", "20", *tls,
            *(["--token-file", self.dir / token] if token else []), *command]],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout.decode()

    def channel(self, authority):
        certificate, key = authority.issue("python")
        return grpc.secure_channel(self.server, grpc.ssl_channel_credentials(
            authority.certificate.read_bytes(), key.read_bytes(), certificate.read_bytes()),
            options=[("grpc.use_local_subchannel_pool", 1)])

    def test_a_client_with_certificate_and_token_is_served(self):
        code, out = self.moedctl(self.old, "user", "generate", "--max-tokens", "5", "Once upon a time")
        self.assertEqual(code, 0, out)
        self.assertIn("UNAUTHENTICATED", self.moedctl(self.old, None, "model")[1])
        self.assertIn("UNAVAILABLE", self.moedctl(self.new, "user", "model")[1])

    def test_admin_calls_need_their_socket_and_their_right(self):
        self.assertIn("UNIMPLEMENTED", self.moedctl(self.old, "operator", "status")[1])
        admin = f"unix:{self.dir}/admin.sock"
        self.assertIn("PERMISSION_DENIED", self.moedctl(self.old, "user", "status", server=admin)[1])
        code, out = self.moedctl(self.old, "operator", "status", server=admin)
        self.assertEqual(code, 0, out)
        self.assertEqual((self.dir / "admin.sock").stat().st_mode & 0o777, 0o600)

    def test_probes_need_no_token(self):
        self.assertEqual(self.moedctl(self.old, None, "health")[0], 0)

    def test_zz_files_that_change_are_taken_while_a_stream_stays_up(self):
        request = inference_pb2.GenerateRequest(text="Once upon a time")
        request.stopping.max_tokens = 900
        request.stopping.ignore_eos = True
        metadata = [("authorization", "Bearer " + (self.dir / "user").read_text().strip())]
        with self.channel(self.old) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            stream = stub.Generate(request, metadata=metadata, timeout=120)
            next(stream)
            # Half of a change is none.
            (self.dir / "tls.key").write_text("broken")
            wait_until(lambda: "event=certificates_kept" in self.daemon.text_of_log(), 20, "no error was logged")
            self.assertEqual(self.moedctl(self.old, "user", "model")[0], 0)
            self.use(self.new)
            wait_until(lambda: self.moedctl(self.new, "user", "model")[0] == 0, 20, "the new authority is not served")
            self.assertIn("UNAVAILABLE", self.moedctl(self.old, "user", "model")[1])
            # A new token, and the old one gone; a broken file in between changes nothing.
            old_tokens = self.tokens.read_text()
            self.tokens.write_text("token user plain\n")
            wait_until(lambda: "event=tokens_kept" in self.daemon.text_of_log(), 20, "no error was logged")
            self.assertEqual(self.moedctl(self.new, "user", "model")[0], 0)
            self.tokens.write_text(self.token("next", "inference") + old_tokens.splitlines(keepends=True)[1])
            wait_until(lambda: self.moedctl(self.new, "next", "model")[0] == 0, 20, "the new token is not known")
            self.assertIn("UNAUTHENTICATED", self.moedctl(self.new, "user", "model")[1])
            # The stream began before all of that.
            last = None
            for last in stream:
                pass
            self.assertEqual(last.done.usage.num_generated_tokens, 900)
        self.assertNotIn("plain", [line for line in self.daemon.text_of_log().splitlines() if "tokens_kept" in line][0])


class ExposureTest(unittest.TestCase):
    def test_beyond_loopback_tls_and_tokens_are_needed(self):
        for flags in ([], ["--token-file", "/dev/null"], ["--admin-listen", "0.0.0.0:0"]):
            done = subprocess.run([BIN / "moed", "--check", *(flags if "--admin-listen" in flags else
                                                             ["--listen", "0.0.0.0:0", *flags])],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, 2)
            self.assertIn(b"--insecure", done.stderr)
        with Daemon("--insecure", listen="0.0.0.0:0", ranks=1) as daemon:
            self.assertIn("event=insecure", daemon.text_of_log())


if __name__ == "__main__":
    unittest.main()
