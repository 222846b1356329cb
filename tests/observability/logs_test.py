"""Logs, trace context and a request's own timing, from a real daemon.

Usage: MOED_BINARY_DIR=build/release/bin python3 tests/observability/logs_test.py [-v]
"""
import re
import subprocess
import unittest

from load import Daemon, grpc, inference_pb2, wait_until
from daemon import BIN

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "xyzzyplugh"


class LogsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--log-level", "trace", "--max-text-bytes", "4096", ranks=2).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.__exit__()

    def generate(self, text, metadata=(), max_tokens=4, **fields):
        """(request id from the initial metadata, events or the RpcError)"""
        request = inference_pb2.GenerateRequest(text=text, stopping=inference_pb2.StoppingOptions(max_tokens=max_tokens, ignore_eos=True), **fields)
        stream = self.daemon.inference.Generate(request, metadata=metadata, timeout=60)
        try:
            events = list(stream)
        except grpc.RpcError as error:
            events = error
        return dict(stream.initial_metadata() or ()).get("x-request-id"), events

    def line_of(self, request_id):
        pattern = re.compile(rf"^.*event=request_done request_id={re.escape(request_id)} .*$", re.M)
        wait_until(lambda: pattern.search(self.daemon.text_of_log()), 20, f"{request_id} was not logged")
        return pattern.search(self.daemon.text_of_log())[0]

    def test_the_servers_request_id_is_in_metadata_in_accepted_and_in_the_log(self):
        request_id, events = self.generate("Once", client_request_id="mine")
        self.assertEqual(events[0].accepted.request_id, request_id)
        line = self.line_of(request_id)
        for field in ('client_request_id="mine"', "code=OK", "generated_tokens=4", "queue_ms=", "ttft_ms=", "total_ms="):
            self.assertIn(field, line)

    def test_every_line_is_made_of_named_fields(self):
        self.generate("Once")
        lines = self.daemon.text_of_log().splitlines()
        self.assertGreater(len(lines), 5)
        for line in lines:
            self.assertRegex(line, r"^time=\S+ level=\w+ name=\S+ thread=\d+ source=\S+ event=\w+( |$)")

    def test_a_valid_traceparent_is_logged(self):
        request_id, _ = self.generate("Once", metadata=[("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")])
        self.assertIn(f" trace_id={TRACE_ID} parent_id={PARENT_ID} sampled=1", self.line_of(request_id))
        request_id, _ = self.generate("Once", metadata=[("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-00")])
        self.assertIn(" sampled=0", self.line_of(request_id))

    def test_a_refused_request_is_logged_with_its_trace(self):
        request_id, error = self.generate("Once", model="none", metadata=[("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")])
        self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)
        self.assertIn(f"trace_id={TRACE_ID}", self.line_of(request_id))

    def test_a_malformed_traceparent_is_ignored(self):
        for header in ("", "junk", f"00-{TRACE_ID}-{PARENT_ID}", f"ff-{TRACE_ID}-{PARENT_ID}-01", f"00-{'0' * 32}-{PARENT_ID}-01",
                       f"00-{TRACE_ID.upper()}-{PARENT_ID}-01", f"00-{TRACE_ID}-{PARENT_ID}-01 event=forged"):
            request_id, events = self.generate("Once", metadata=[("traceparent", header)])
            self.assertTrue(events[-1].HasField("done"))
            line = self.line_of(request_id)
            self.assertNotIn("trace_id", line)
            self.assertNotIn("forged", line)
        request_id, _ = self.generate("Once", metadata=[("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")] * 2)
        self.assertNotIn("trace_id", self.line_of(request_id))

    def test_nothing_of_a_prompt_is_ever_logged(self):
        requests = [dict(text=SECRET), dict(text=f"{SECRET} " * 300), dict(text=f"{SECRET} " * 900),
                    dict(text="x", stopping=inference_pb2.StoppingOptions(stop=[SECRET * 200])),
                    dict(text=SECRET, cache_salt=SECRET, sampling=inference_pb2.SamplingOptions(top_p=7)),
                    dict(text=SECRET, response=inference_pb2.ResponseOptions(echo=True, logprobs=2))]
        for request in requests:
            stream = self.daemon.inference.Generate(inference_pb2.GenerateRequest(**request), timeout=60)
            try:
                next(stream)
                stream.cancel()
            except grpc.RpcError:
                pass
        self.daemon.inference.Tokenize(inference_pb2.TokenizeRequest(text=SECRET))
        request_id, events = self.generate(SECRET, max_tokens=20)
        self.line_of(request_id)
        log = self.daemon.text_of_log()
        self.assertNotIn(SECRET, log)
        generated = "".join(event.delta.text for event in events).strip()
        self.assertGreater(len(generated), 10)
        self.assertNotIn(generated[:30], log)

    def test_a_request_can_ask_where_its_time_went(self):
        _, events = self.generate("Once upon a time", max_tokens=30, response=inference_pb2.ResponseOptions(timing=True))
        usage, timing = events[-1].done.usage, events[-1].done.timing
        self.assertAlmostEqual(timing.queue_seconds + timing.prefill_seconds + timing.decode_seconds, usage.total_seconds, delta=1e-6)
        self.assertAlmostEqual(timing.queue_seconds + timing.prefill_seconds, usage.time_to_first_token_seconds, delta=1e-6)
        self.assertEqual((timing.prefill.num_steps, timing.decode.num_steps), (1, 29))
        for seconds, passed in ((timing.prefill, timing.prefill_seconds), (timing.decode, timing.decode_seconds)):
            stages = seconds.attention + seconds.route + seconds.dispatch + seconds.experts + seconds.combine + seconds.head + seconds.sampling
            self.assertGreater(seconds.attention, 0)
            self.assertGreater(stages, 0)
            self.assertLessEqual(stages, seconds.total)
            self.assertLessEqual(seconds.total, passed)
            self.assertLessEqual(seconds.combine_wait, seconds.combine)

    def test_without_the_flag_there_is_no_timing(self):
        _, events = self.generate("Once")
        self.assertFalse(events[-1].done.HasField("timing"))

    def test_moedctl_shows_the_timing(self):
        done = subprocess.run([BIN / "moedctl", "--server", self.daemon.address, "generate", "Once", "-m", "5", "--ignore-eos", "--timing"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("queue", "prefill", "decode", "attention", "combine", "sampling"):
            self.assertIn(word, done.stderr)


if __name__ == "__main__":
    unittest.main()
