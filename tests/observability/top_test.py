"""moedctl top on a pseudo-terminal, in a pipe, and for scripts, against a daemon under load.

Usage: MOED_BINARY_DIR=build/release/bin python3 tests/observability/top_test.py [-v]
"""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unittest

from load import Daemon, Load
from daemon import BIN

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


class Terminal:
    """moedctl top on a pseudo-terminal of a given size."""

    def __init__(self, address, interval="0.2", rows=40, columns=120, **env):
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen([BIN / "moedctl", "--server", address, "top", "--interval", interval], stdin=slave, stdout=slave,
                                        stderr=slave, env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env})
        self.seen = b""

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition(self.seen):
            if time.monotonic() > end:
                raise AssertionError(f"not seen within {seconds} s: {self.seen[-3000:]!r}")
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 1 << 16)

    def pictures(self):
        return self.seen.split(b"\x1b[H")[1:]

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def lines(picture):
    """What a picture shows, without its escape sequences."""
    return re.sub(rb"\x1b\[[?0-9;]*[a-zA-Z]", b"", picture).decode().replace("\r", "").split("\n")


class TopTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(ranks=2).__enter__()
        cls.load = Load(cls.daemon).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.load.__exit__()
        cls.daemon.__exit__()

    def run_top(self, *flags, **env):
        return subprocess.run([BIN / "moedctl", "--server", self.daemon.address, "top", *flags], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60, env={**os.environ, **env})

    def test_a_terminal_shows_a_picture_that_stays_up_to_date_and_is_given_back(self):
        terminal = Terminal(self.daemon.address)
        try:
            terminal.read_until(lambda seen: seen.count(b"\x1b[H") >= 5)
            self.assertTrue(terminal.seen.startswith(ENTER))
            shown = lines(terminal.pictures()[-2])
            self.assertRegex(shown[0], r"^demo  serving  up ")
            self.assertRegex("\n".join(shown), r"tokens/s  [1-9][\d.k]* generated")
            self.assertRegex("\n".join(shown), r"\n   1  up ")
            self.assertRegex("\n".join(shown), r"\n      3  ")
            self.assertIn(b"\x1b[48;5;", terminal.seen)
            self.assertFalse(termios.tcgetattr(terminal.slave)[3] & termios.ECHO)
            os.write(terminal.master, b"q")
            terminal.read_until(lambda seen: LEAVE in seen)
            self.assertEqual(terminal.process.wait(20), 0)
            self.assertEqual(termios.tcgetattr(terminal.slave), terminal.before)
        finally:
            terminal.close()

    def test_the_picture_follows_the_size_of_the_window(self):
        terminal = Terminal(self.daemon.address, interval="30")
        try:
            terminal.read_until(lambda seen: b"\x1b[H" in seen)
            for rows, columns in ((8, 30), (3, 10), (1, 1), (50, 200)):
                before = terminal.seen.count(b"\x1b[H")
                terminal.resize(rows, columns)
                terminal.read_until(lambda seen: seen.count(b"\x1b[H") > before and seen.endswith(b"\x1b[J"))
                shown = lines(terminal.pictures()[-1])
                self.assertLessEqual(len(shown), rows)
                self.assertLessEqual(max(map(len, shown)), columns, shown)
        finally:
            terminal.close()

    def test_an_interrupt_gives_the_terminal_back(self):
        terminal = Terminal(self.daemon.address)
        try:
            terminal.read_until(lambda seen: b"\x1b[H" in seen)
            terminal.process.send_signal(signal.SIGINT)
            terminal.read_until(lambda seen: LEAVE in seen)
            self.assertEqual(terminal.process.wait(20), 130)
            self.assertEqual(termios.tcgetattr(terminal.slave), terminal.before)
        finally:
            terminal.close()

    def test_a_server_that_goes_away_leaves_its_last_figures_and_an_error(self):
        with Daemon(ranks=1) as daemon:
            terminal = Terminal(daemon.address)
            terminal.read_until(lambda seen: seen.count(b"\x1b[H") >= 2)
        try:
            terminal.read_until(lambda seen: b"UNAVAILABLE" in seen)
            self.assertRegex(lines(terminal.pictures()[-1])[0], r"^demo  serving")
            self.assertIsNone(terminal.process.poll())
        finally:
            terminal.close()

    def test_a_dumb_terminal_gets_text_without_escape_sequences(self):
        terminal = Terminal(self.daemon.address, TERM="dumb")
        try:
            terminal.read_until(lambda seen: seen.count(b"tokens/s") >= 3)
            self.assertNotIn(b"\x1b", terminal.seen)
        finally:
            terminal.close()

    def test_once_prints_one_picture_for_scripts(self):
        done = self.run_top("--once", "--interval", "0.5")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout.count("tokens/s"), 1)
        self.assertNotIn("\x1b", done.stdout)
        self.assertTrue(done.stdout.isascii())

    def test_json_is_one_object_with_rates(self):
        done = self.run_top("--json", "--interval", "0.5")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        top = json.loads(done.stdout)
        self.assertGreater(top["generated_tokens_per_second"], 0)
        self.assertEqual(len(top["ranks"]), 2)
        self.assertAlmostEqual(sum(top["step_time_ratio"].values()), 1, delta=0.1)
        self.assertEqual(top["status"]["state"], "SERVING_STATE_SERVING")

    def test_no_server_is_a_failure(self):
        done = subprocess.run([BIN / "moedctl", "--server", "127.0.0.1:1", "top", "--once"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("UNAVAILABLE", done.stderr)


if __name__ == "__main__":
    unittest.main()
