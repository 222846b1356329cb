"""End to end with real processes: the daemon, its engines, and a gRPC client made from the .proto files.

Usage: MOED_BINARY_DIR=build/release/bin python3 tests/e2e/e2e_test.py [-v] [TestClass.test_name]
"""
import json
import os
import random
import signal
import subprocess
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import BIN, Daemon, collect, error_details_pb2, grpc, inference_pb2, process_is_gone, status_pb2, wait_until
from daemon import admin_pb2

PROMPT = "Once upon a time there was a little girl who"
PROMPTS = [PROMPT, "The king said", "In the middle of the forest there stood", '"I will never', "A fox", "Then the wolf came and",
           "Far away in the land of", "She opened the door and saw"]


def sampling(**fields):
    return inference_pb2.SamplingOptions(**fields)


def stopping(**fields):
    return inference_pb2.StoppingOptions(**fields)


def violations(error):
    """Field names of the BadRequest in an RpcError's details."""
    raw = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    status = status_pb2.Status.FromString(raw)
    found = []
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found += [v.field for v in bad.field_violations]
    return found


class OneDaemonTest(unittest.TestCase):
    """Tests that share one daemon with two engines."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(ranks=2).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.__exit__()

    def test_streams_text_in_many_deltas_and_ends_with_usage(self):
        r = self.daemon.generate(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=40, ignore_eos=True))
        self.assertGreater(r.num_deltas, 5)
        self.assertGreater(len(r.text.split()), 10)
        self.assertEqual(len(r.tokens[0]), 40)
        self.assertEqual(r.usage.num_generated_tokens, 40)
        self.assertEqual(r.usage.num_prompt_tokens, r.accepted.num_prompt_tokens)
        self.assertEqual(r.finished[0].reason, inference_pb2.FINISH_REASON_LENGTH)
        self.assertTrue(r.accepted.request_id)
        again = self.daemon.inference.Detokenize(inference_pb2.DetokenizeRequest(token_ids=r.tokens[0])).text
        self.assertEqual(again, r.text)

    def test_text_and_token_ids_as_prompt_give_the_same(self):
        ids = self.daemon.inference.Tokenize(inference_pb2.TokenizeRequest(text=PROMPT)).token_ids
        options = dict(sampling=sampling(seed=5, temperature=1), stopping=stopping(max_tokens=20))
        self.assertEqual(self.daemon.generate(PROMPT, **options).tokens, self.daemon.generate(ids=ids, **options).tokens)

    def test_n_sequences_differ_and_are_numbered(self):
        r = self.daemon.generate(PROMPT, sampling=sampling(n=4, seed=1, temperature=1), stopping=stopping(max_tokens=16, ignore_eos=True))
        self.assertEqual(sorted(r.finished), [0, 1, 2, 3])
        self.assertEqual(len({tuple(t) for t in r.tokens.values()}), 4)

    def test_stop_string_ends_the_text_and_never_leaks(self):
        whole = self.daemon.generate(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=60, ignore_eos=True)).text
        stop = whole[25:32]
        at = whole.index(stop)
        r = self.daemon.generate(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=60, ignore_eos=True, stop=[stop]))
        self.assertEqual(r.text, whole[:at])
        self.assertEqual(r.finished[0].stop_string, stop)
        kept = self.daemon.generate(PROMPT, sampling=sampling(temperature=0),
                                    stopping=stopping(max_tokens=60, ignore_eos=True, stop=[stop], include_stop_string=True))
        self.assertEqual(kept.text, whole[:at] + stop)

    def test_logprobs_come_with_alternatives_in_order(self):
        r = self.daemon.generate(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=5, ignore_eos=True),
                                 response=inference_pb2.ResponseOptions(logprobs=3))
        self.assertEqual(len(r.logprobs[0]), 5)
        for token, logprob in zip(r.tokens[0], r.logprobs[0]):
            self.assertEqual(logprob.token_id, token)
            self.assertEqual(len(logprob.top), 3)
            self.assertEqual(logprob.top[0].token_id, token)
            self.assertEqual(logprob.top[0].logprob, logprob.logprob)
            self.assertTrue(all(a.logprob >= b.logprob for a, b in zip(logprob.top, logprob.top[1:])))
        self.assertEqual(b"".join(l.token for l in r.logprobs[0]).decode(), r.text)

    def test_echo_starts_with_the_prompt(self):
        r = self.daemon.generate(PROMPT, stopping=stopping(max_tokens=3, ignore_eos=True), response=inference_pb2.ResponseOptions(echo=True))
        self.assertTrue(r.text.startswith(PROMPT))

    def test_bad_fields_are_all_named(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.daemon.generate(PROMPT, sampling=sampling(temperature=-1, top_p=2), stopping=stopping(max_tokens=-5))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(sorted(violations(caught.exception)), ["sampling.temperature", "sampling.top_p", "stopping.max_tokens"])

    def test_a_prompt_that_is_too_long_is_refused_with_its_length(self):
        with self.assertRaises(grpc.RpcError) as caught:
            self.daemon.generate(ids=[7] * 5000)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("5000", caught.exception.details())

    def test_same_tokens_alone_and_in_a_crowd(self):
        def run(i):
            return self.daemon.generate(PROMPTS[i % len(PROMPTS)], sampling=sampling(seed=i, temperature=1 if i % 2 else 0),
                                        stopping=stopping(max_tokens=12 + i % 7, ignore_eos=True)).tokens
        alone = [run(i) for i in range(24)]
        with ThreadPoolExecutor(24) as pool:
            crowd = list(pool.map(run, range(24)))
        self.assertEqual(alone, crowd)

    def test_cancelling_frees_the_blocks(self):
        wait_until(lambda: self.daemon.status().num_running_sequences == 0, 5, "an earlier test's requests did not end")
        free = sum(r.num_blocks for r in self.daemon.status().ranks)
        self.assertEqual(sum(r.num_free_blocks for r in self.daemon.status().ranks), free)
        streams = [self.daemon.start(p, stopping=stopping(max_tokens=900, ignore_eos=True)) for p in PROMPTS]
        for s in streams:
            next(s)
            next(s)
        self.assertLess(sum(r.num_free_blocks for r in self.daemon.status().ranks), free)
        for s in streams:
            s.cancel()
        wait_until(lambda: sum(r.num_free_blocks for r in self.daemon.status().ranks) == free, 5, "blocks did not come back")
        self.assertEqual(self.daemon.status().num_running_sequences, 0)

    def test_a_deadline_ends_the_request(self):
        started = time.monotonic()
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in range(100):
                self.daemon.generate(PROMPT, timeout=0.15, stopping=stopping(max_tokens=900, ignore_eos=True), sampling=sampling(n=8))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        wait_until(lambda: self.daemon.status().num_running_sequences == 0, 5, "the sequence went on after its deadline")
        self.assertLess(time.monotonic() - started, 30)

    def test_a_reader_that_stops_reading_delays_nobody(self):
        slow = self.daemon.start(PROMPT, timeout=120, stopping=stopping(max_tokens=900, ignore_eos=True), sampling=sampling(n=8))
        next(slow)
        r = self.daemon.generate(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=20, ignore_eos=True))
        self.assertEqual(len(r.tokens[0]), 20)
        slow.cancel()

    def test_shared_prefixes_are_found_in_the_cache(self):
        long_prompt = " ".join(PROMPTS * 2)
        options = dict(sampling=sampling(temperature=0), stopping=stopping(max_tokens=8, ignore_eos=True))
        first = self.daemon.generate(long_prompt, **options)
        second = self.daemon.generate(long_prompt, **options)
        salted = self.daemon.generate(long_prompt, cache_salt="other tenant", **options)
        self.assertGreater(second.usage.num_cached_tokens, 16)
        self.assertEqual(salted.usage.num_cached_tokens, 0)
        self.assertEqual(first.tokens, second.tokens)
        self.assertEqual(first.tokens, salted.tokens)

    def test_health_metrics_and_experts(self):
        self.daemon.generate(PROMPT, stopping=stopping(max_tokens=8, ignore_eos=True))
        self.assertEqual(self.daemon.http("/healthz")[0], 200)
        self.assertEqual(self.daemon.http("/readyz")[0], 200)
        code, text = self.daemon.http("/metrics")
        self.assertEqual(code, 200)
        for name in ("moed_requests_running", "moed_generation_tokens_total", "moed_time_to_first_token_seconds_bucket",
                     "moed_moe_all2all_bytes_total", "moed_kv_cache_usage_ratio", "moed_rank_up"):
            self.assertIn(name, text)
        experts = self.daemon.admin.GetExperts(admin_pb2.GetExpertsRequest(), timeout=10)
        self.assertEqual(len(experts.layers), 4)
        for layer in experts.layers:
            self.assertEqual({s.expert_id for s in layer.slots}, set(range(16)))
            self.assertEqual({s.rank for s in layer.slots}, {0, 1})
            self.assertGreater(sum(layer.tokens_per_expert), 0)
        self.assertGreater(experts.dispatch_bytes, 0)

    def test_moedctl_speaks_to_the_daemon(self):
        def ctl(*args, stdin=None):
            return subprocess.run([BIN / "moedctl", "--server", self.daemon.address, *args], input=stdin, capture_output=True, text=True, timeout=60)
        made = ctl("--json", "generate", "--temperature", "0", "--max-tokens", "10", "--ignore-eos", PROMPT)
        self.assertEqual(made.returncode, 0, made.stderr)
        expected = self.daemon.generate(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=10, ignore_eos=True)).text
        self.assertIn(json.dumps(expected)[1:-1], json.dumps(json.loads(made.stdout)))
        piped = ctl("generate", "--temperature", "0", "--max-tokens", "10", "--ignore-eos", "-", stdin=PROMPT)
        self.assertIn(expected.strip(), piped.stdout)
        for command in ("model", "status", "experts", "health"):
            shown = ctl(command)
            self.assertEqual(shown.returncode, 0, (command, shown.stderr))
            self.assertTrue(shown.stdout.strip())
        self.assertEqual(ctl("no-such-command").returncode, 2)


class LifeTest(unittest.TestCase):
    """Tests that start daemons of their own."""

    def test_same_tokens_at_any_number_of_ranks_and_any_placement(self):
        def run(daemon):
            return [daemon.generate(p, sampling=sampling(seed=3, temperature=0.8), stopping=stopping(max_tokens=24, ignore_eos=True),
                                    response=inference_pb2.ResponseOptions(logprobs=2)) for p in PROMPTS[:4]]
        expected = None
        for ranks, flags in ((1, ()), (2, ()), (4, ()), (2, ("--expert-placement", "round_robin")), (3, ("--max-tokens-per-step", "16", "--max-sequences-per-step", "16"))):
            with Daemon(*flags, ranks=ranks) as daemon:
                self.assertEqual(len(set(daemon.engine_pids())), ranks)
                results = run(daemon)
                seen = [(r.text, r.tokens, [(l.logprob, [t.logprob for t in l.top]) for l in r.logprobs[0]]) for r in results]
            expected = expected or seen
            self.assertEqual(seen, expected, f"{ranks} ranks {flags}")

    def test_integer_weights_give_the_same_tokens_at_any_number_of_ranks(self):
        def run(daemon):
            return [daemon.generate(p, sampling=sampling(seed=3, temperature=0.8), stopping=stopping(max_tokens=16, ignore_eos=True)).tokens
                    for p in PROMPTS[:3]]
        weights = {}
        for dtype in ("int8", "int4"):
            expected = None
            for ranks in (1, 2):
                with Daemon("--dtype", dtype, ranks=ranks) as daemon:
                    self.assertEqual(daemon.inference.GetModel(inference_pb2.GetModelRequest()).dtype, dtype)
                    status = daemon.status()
                    self.assertEqual([rank.dtype for rank in status.ranks], [dtype] * ranks)
                    weights[dtype, ranks] = sum(rank.weight_bytes for rank in status.ranks)
                    seen = run(daemon)
                expected = expected or seen
                self.assertEqual(seen, expected, f"{dtype} on {ranks} ranks")
        self.assertLess(weights["int4", 1], 0.75 * weights["int8", 1])

    def test_a_killed_engine_fails_what_runs_and_service_returns_within_three_seconds(self):
        with Daemon(ranks=2) as daemon:
            before = daemon.generate(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=20, ignore_eos=True))
            for victim in (0, 1):
                stream = daemon.start(PROMPT, sampling=sampling(n=8), stopping=stopping(max_tokens=900, ignore_eos=True))
                for _ in range(4):
                    next(stream)
                pids = daemon.engine_pids()
                os.kill(pids[victim], signal.SIGKILL)
                killed = time.monotonic()
                with self.assertRaises(grpc.RpcError) as caught:
                    for _ in stream:
                        pass
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
                while True:
                    try:
                        after = daemon.generate(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=20, ignore_eos=True))
                        break
                    except grpc.RpcError as e:
                        self.assertEqual(e.code(), grpc.StatusCode.UNAVAILABLE)
                        self.assertLess(time.monotonic() - killed, 10)
                        time.sleep(0.02)
                self.assertLess(time.monotonic() - killed, 3)
                self.assertEqual(after.tokens, before.tokens)
                self.assertTrue(all(process_is_gone(p) for p in pids))

    def test_an_idle_engine_that_dies_is_replaced(self):
        with Daemon(ranks=2) as daemon:
            pids = daemon.engine_pids()
            os.kill(pids[1], signal.SIGKILL)
            wait_until(lambda: daemon.http("/readyz")[0] == 200 and set(daemon.engine_pids()).isdisjoint(pids), 10, "no new engines")

    def test_killing_the_daemon_leaves_no_engine(self):
        with Daemon(ranks=2) as daemon:
            pids = daemon.engine_pids()
            self.assertFalse(any(process_is_gone(p) for p in pids))
            daemon.process.kill()
            wait_until(lambda: all(process_is_gone(p) for p in pids), 5, "engines outlived the daemon")

    def test_sigterm_finishes_what_runs_and_exits_zero(self):
        with Daemon(ranks=2) as daemon:
            pids = daemon.engine_pids()
            stream = daemon.start(PROMPT, sampling=sampling(temperature=0), stopping=stopping(max_tokens=300, ignore_eos=True))
            next(stream)
            daemon.process.terminate()
            result = []
            reader = threading.Thread(target=lambda: result.extend(stream))
            reader.start()
            wait_until(lambda: daemon.http("/readyz")[0] == 503 or daemon.process.poll() is not None, 5, "still ready after SIGTERM")
            reader.join(60)
            self.assertEqual(result[-1].WhichOneof("event"), "done")
            self.assertEqual(daemon.process.wait(20), 0)
            self.assertTrue(all(process_is_gone(p) for p in pids))

    def test_a_second_sigterm_ends_at_once(self):
        with Daemon(ranks=1) as daemon:
            stream = daemon.start(PROMPT, sampling=sampling(n=16), stopping=stopping(max_tokens=900, ignore_eos=True))
            next(stream)
            daemon.process.terminate()
            wait_until(lambda: "drain" in daemon.text_of_log(), 5, "no drain was logged")
            daemon.process.terminate()
            daemon.process.wait(5)

    def test_a_full_queue_says_so_and_when_to_come_back(self):
        with Daemon("--max-waiting-requests", "2", "--max-sequences-per-step", "1", ranks=1) as daemon:
            streams = [daemon.start(PROMPT, stopping=stopping(max_tokens=900, ignore_eos=True))]
            for _ in range(3):
                next(streams[0])  # it runs: the next two wait
            streams += [daemon.start(PROMPT, stopping=stopping(max_tokens=900, ignore_eos=True)) for _ in range(2)]
            wait_until(lambda: daemon.status().num_waiting_sequences >= 2, 10, "nothing waits")
            with self.assertRaises(grpc.RpcError) as caught:
                daemon.generate(PROMPT)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertIn("grpc-retry-pushback-ms", dict(caught.exception.trailing_metadata()))
            for s in streams:
                s.cancel()

    def test_random_bytes_on_the_port_do_no_harm(self):
        import socket
        with Daemon(ranks=1) as daemon:
            host, port = daemon.address.rsplit(":", 1)
            noise = random.Random(1)
            for _ in range(20):
                with socket.create_connection((host, int(port)), timeout=5) as s:
                    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise.randbytes(2000))
            r = daemon.generate(PROMPT, stopping=stopping(max_tokens=4, ignore_eos=True))
            self.assertEqual(len(r.tokens[0]), 4)

    def test_check_prints_the_plan_and_refuses_what_cannot_fit(self):
        plan = subprocess.run([BIN / "moed", "--check", "--ranks", "2"], capture_output=True, text=True, timeout=60)
        self.assertEqual(plan.returncode, 0, plan.stderr)
        for word in ("weights", "KV", "exchange", "experts"):
            self.assertIn(word, plan.stdout)
        refused = subprocess.run([BIN / "moed", "--check", "--num-blocks", "10000000"], capture_output=True, text=True, timeout=60)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("GiB", refused.stderr + refused.stdout)
        self.assertEqual(subprocess.run([BIN / "moed", "--no-such-flag"], capture_output=True, timeout=60).returncode, 2)


if __name__ == "__main__":
    unittest.main()
