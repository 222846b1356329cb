"""moed-load against a real daemon with the demo model. Run by ctest as load_e2e_test."""
import json
import pathlib
import subprocess
import tempfile
import unittest

from daemon import BIN, Daemon

# On a busy machine the client may be late; its figures are not what is tested here.
PATIENT = ["--max-lag-ms", "100000", "--max-cpu", "1", "--quiet"]


class LoadTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.dir = tempfile.TemporaryDirectory(prefix="moed-load-e2e.")

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()
        cls.daemon.__exit__()

    def path(self, name):
        return str(pathlib.Path(self.dir.name) / name)

    def load(self, *arguments, expect=0):
        """(result, standard output) of a run."""
        run = subprocess.run([BIN / "moed-load", "--server", self.daemon.address, "--json", self.path("a.json"),
                              *PATIENT, *arguments], capture_output=True, text=True, timeout=120)
        self.assertEqual(run.returncode, expect, run.stdout + run.stderr)
        return json.loads(pathlib.Path(self.path("a.json")).read_text()), run.stdout

    def test_client_and_server_count_the_same_tokens(self):
        before = self.daemon.status()
        result, out = self.load("--concurrency", "4", "-n", "24", "--input-len", "8..24", "--output-len", "12",
                                "--metrics", self.daemon.metrics_address, "--html", self.path("a.html"))
        after = self.daemon.status()
        self.assertEqual(result["completed"], 24)
        self.assertEqual(result["total_output_tokens"], 24 * 12)
        self.assertEqual(after.num_generated_tokens - before.num_generated_tokens, 24 * 12)
        self.assertEqual(after.num_prompt_tokens - before.num_prompt_tokens, result["total_input_tokens"])
        self.assertGreater(result["mean_ttft_ms"], 0)
        server = result["moed"]["server"]
        self.assertEqual(server["problem"], "")
        self.assertEqual(len(server["whole_run"]["rows_per_rank"]), 2)
        self.assertGreater(server["whole_run"]["exchange_share"], 0)
        self.assertGreater(server["experts"]["mean_layer_balancedness"], 0)
        self.assertIn("exchange", out)
        self.assertIn("24 completed", out)
        self.assertGreater(pathlib.Path(self.path("a.html")).stat().st_size, 20000)

    def test_greedy_answers_are_the_same_under_load(self):
        result, out = self.load("--concurrency", "8", "-n", "48", "--input-len", "6..40", "--output-len", "16",
                                "--verify", "6")
        self.assertEqual(result["moed"]["verify"], {"compared": 48, "different": 0}, out)

    def test_conversations_find_their_past_in_the_prefix_cache(self):
        result, _ = self.load("--users", "1", "--turns", "3", "-n", "12", "--input-len", "24", "--output-len", "8")
        turns = result["moed"]["turns"]
        self.assertEqual([t["completed"] for t in turns], [4, 4, 4])
        self.assertGreater(turns[2]["cached_ratio"], turns[0]["cached_ratio"])

    def test_expert_load_is_skewed_on_demand(self):
        result, _ = self.load("--concurrency", "4", "-n", "60", "--input-len", "40", "--output-len", "1",
                              "--expert-balancedness", "0.75", "--bypass-prefix-cache")
        skew = result["moed"]["expert_skew"]
        self.assertEqual(skew["groups"], "ranks")
        self.assertAlmostEqual(skew["predicted"], 0.75, delta=0.05)
        self.assertAlmostEqual(skew["measured"], skew["predicted"], delta=0.1)

    def test_an_open_loop_with_cancellation_leaves_nothing_behind(self):
        result, _ = self.load("--rate", "20", "--duration", "1.5", "--input-len", "8", "--output-len", "200",
                              "--cancel-after", "3")
        outcomes = result["moed"]["outcomes"]
        self.assertGreater(outcomes["cancelled"], 5)
        self.assertEqual(outcomes["failed"], 0)


if __name__ == "__main__":
    unittest.main()
