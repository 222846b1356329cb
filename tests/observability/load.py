"""Load for the tests beside it: a daemon, and clients that keep it busy with prompts of all lengths."""
import os
import pathlib
import random
import sys
import threading

# Where tests/run.sh unpacks what is not installed.
os.environ["PATH"] += f":{pathlib.Path(__file__).resolve().parents[2] / 'build/tools/usr/bin'}"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from daemon import Daemon, grpc, inference_pb2, wait_until  # noqa: E402,F401

SKIPPED = 77  # the exit code that ctest takes for "skipped"
WORDS = "once upon a time there was a fox who told the king of the forest a story about the moon and the river".split()


def skip(what):
    """Ends a test that this machine cannot run, so that nobody overlooks it."""
    print(f"\n{'!' * 100}\n!!! SKIPPED: {what}\n{'!' * 100}\n", flush=True)
    sys.exit(SKIPPED)


class Load:
    """Threads that send requests to a daemon until stopped. Use as a context manager."""

    def __init__(self, daemon, num_clients=6):
        self.daemon = daemon
        self.stopped = threading.Event()
        self.num_done = 0
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(num_clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def run(self, number):
        rng = random.Random(number)
        while not self.stopped.is_set():
            prompt = " ".join(rng.choice(WORDS) for _ in range(rng.choice((3, 30, 300))))
            stream = self.daemon.start(prompt, sampling=inference_pb2.SamplingOptions(temperature=1, seed=rng.randrange(1 << 30)),
                                       stopping=inference_pb2.StoppingOptions(max_tokens=rng.choice((2, 20, 60)), ignore_eos=True))
            try:
                for num_events, _ in enumerate(stream):
                    if number == 0 and num_events == 3:
                        stream.cancel()
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE), error
            self.num_done += 1
