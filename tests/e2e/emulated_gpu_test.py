"""moed --device cuda, end to end, on emulated GPUs (tests/cuda_emulation) and a stand-in for NCCL (tests/nccl_stand_in).

Usage: MOED_BINARY_DIR=build/release/bin python3 tests/e2e/emulated_gpu_test.py [-v] [TestClass.test_name]
"""
import os
import pathlib
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import BIN, Daemon, grpc, inference_pb2, wait_until

PROMPTS = ["Once upon a time there was a little girl who", "The king said", "A fox"]
GPU = ("--device", "cuda", "--engine-binary", str(BIN / "moed-engine-emulated"),
       "--nccl-library", str(BIN / "libnccl_stand_in.so"), "--max-model-len", "128", "--num-blocks", "64",
       "--max-tokens-per-step", "32", "--max-sequences-per-step", "8")


def generate(daemon, prompt, max_tokens=6):
    return daemon.generate(prompt, sampling=inference_pb2.SamplingOptions(temperature=0),
                           stopping=inference_pb2.StoppingOptions(max_tokens=max_tokens, ignore_eos=True)).tokens[0]


def generate_all(daemon):
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda prompt: generate(daemon, prompt), PROMPTS))


class EmulatedGpuTest(unittest.TestCase):
    def test_the_same_greedy_tokens_as_cpu_ranks_on_one_two_and_four_gpus(self):
        with Daemon(ranks=2) as daemon:
            expected = generate_all(daemon)
        for ranks, exchange in ((1, "auto"), (2, "all_to_all"), (2, "all_gather"), (4, "auto")):
            with Daemon(*GPU, "--exchange", exchange, ranks=ranks) as daemon:
                self.assertEqual([rank.device for rank in daemon.status().ranks], [f"cuda:{r}" for r in range(ranks)])
                self.assertEqual(generate_all(daemon), expected, f"{ranks} ranks, {exchange}")
                if ranks > 1 and exchange == "auto":
                    self.assertIn("event=exchange_crossover", daemon.text_of_log())

    def test_a_gpu_that_hangs_in_the_exchange_is_named_and_service_returns(self):
        with tempfile.TemporaryDirectory() as folder:
            once = pathlib.Path(folder, "once")
            once.touch()
            os.environ.update(NCCL_STAND_IN_FAULT="hang:1:12", NCCL_STAND_IN_FAULT_ONCE=str(once))
            self.addCleanup(lambda: [os.environ.pop(k) for k in ("NCCL_STAND_IN_FAULT", "NCCL_STAND_IN_FAULT_ONCE")])
            with Daemon(*GPU, "--exchange", "all_to_all", "--step-timeout-s", "4", ranks=2) as daemon:
                with self.assertRaises(grpc.RpcError) as caught:
                    generate(daemon, PROMPTS[1])
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
                self.assertFalse(once.exists())
                self.assertRegex(daemon.text_of_log(), r"step \d+, layer \d+, (route|dispatch|combine) .*timed out after 4s")
                wait_until(lambda: daemon.http("/readyz")[0] == 200, 30, "no new engines")
                self.assertEqual(len(generate(daemon, PROMPTS[1], 2)), 2)


if __name__ == "__main__":
    unittest.main()
