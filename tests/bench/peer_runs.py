"""The engines that compare_peers.py measures: how each is called and what its output says.

An engine has a name and run(test, dtype), which starts one process and gives a list of Rows, or
raises CannotRun with the reason. A process measures some samples of a test; the first, in which
pages are touched for the first time, is not among them.
"""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import tempfile

GGUF_TYPES = {"bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}
TABLE_ROW = re.compile(r"^\|(?:\s*[\d.]+ \|){10}\s*$", re.MULTILINE)


class CannotRun(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class Test:
    """Work of one process: a prompt alone, or generation after prompts at some batch sizes."""

    kind: str  # "prefill" or "generation"
    prompt: int  # tokens of each sequence
    generate: int
    batches: tuple
    shared_prompt: bool


@dataclasses.dataclass
class Row:
    kind: str
    batch: int
    shared_prompt: bool
    samples: list  # tokens per second
    distinct_experts: float | None = None  # per layer and step; mean


@dataclasses.dataclass
class Setup:
    """What is the same for every engine."""

    config_json: str
    threads: int
    samples_per_process: int
    timeout_s: float
    runner: str  # put before every command
    raw_dir: str | None  # where each process's output goes


class Runner:
    """Starts processes in a folder of their own (some leave a log there), keeps what they print.
    Owned by compare_peers.main."""

    def __init__(self, setup):
        self.setup = setup
        self.num_runs = 0
        self.folder = tempfile.TemporaryDirectory(prefix="compare-peers.")

    def run(self, name, command):
        command = shlex.split(self.setup.runner) + [str(word) for word in command]
        how = {"capture_output": True, "text": True, "cwd": self.folder.name, "check": False}
        try:
            done = subprocess.run(command, timeout=self.setup.timeout_s, **how)
        except FileNotFoundError as error:
            raise CannotRun(f"cannot start {error.filename}") from error
        except subprocess.TimeoutExpired as error:
            raise CannotRun(f"no result after {self.setup.timeout_s:.0f} s") from error
        self.keep(name, command, done)
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise CannotRun(f"exit status {done.returncode}: {last}")
        return done

    def keep(self, name, command, done):
        if self.setup.raw_dir is None:
            return
        self.num_runs += 1
        folder = pathlib.Path(self.setup.raw_dir)
        folder.mkdir(parents=True, exist_ok=True)
        text = f"$ {shlex.join(command)}\n{done.stdout}\n--- stderr\n{done.stderr}"
        (folder / f"{self.num_runs:03d}-{name}.txt").write_text(text, encoding="utf-8")


class Moed:
    """moed-bench on dummy weights, or a program with its flags and its JSON."""

    def __init__(self, name, command, runner):
        self.name = name
        self.command = [os.path.abspath(w) if os.path.isfile(w) else w for w in command]
        self.runner = runner

    def run(self, test, dtype):
        setup = self.runner.setup
        command = [*self.command, "--config-json", setup.config_json, "--load-format", "dummy"]
        command += ["--dtype", dtype, "--threads", setup.threads, "--prompt", test.prompt]
        command += ["--generate", test.generate, "--batch", ",".join(map(str, test.batches))]
        command += ["--repetitions", setup.samples_per_process, "--json"]
        if test.shared_prompt:
            command.append("--shared-prompt")
        done = self.runner.run(self.name, command)
        try:
            return moed_rows(json.loads(done.stdout), test)
        except (ValueError, KeyError) as error:
            raise CannotRun(f"cannot read its JSON: {error!r}") from error


def moed_rows(report, test):
    rows = [
        Row(
            kind=entry["test"],
            batch=entry["batch"],
            shared_prompt=entry["shared_prompt"],
            samples=entry["samples"],
            distinct_experts=entry.get("distinct_experts"),
        )
        for entry in report["results"]
    ]
    return [row for row in rows if row.kind == test.kind]


class Peer:
    """llama.cpp or a relative of it: llama-bench for prompts, llama-batched-bench for the rest."""

    def __init__(self, spec, runner):
        self.name = spec["name"]
        self.bench = os.path.abspath(spec["llama_bench"])
        self.batched_bench = os.path.abspath(spec["batched_bench"])
        self.gguf = os.path.abspath(spec["gguf"])
        self.bench_args = spec.get("bench_args", [])
        self.batched_args = spec.get("batched_args", [])
        self.runner = runner

    def run(self, test, dtype):
        shape = pathlib.Path(self.runner.setup.config_json).parent.name
        gguf = self.gguf.format(type=GGUF_TYPES[dtype], shape=shape)
        if not pathlib.Path(gguf).is_file():
            raise CannotRun(f"no file {gguf}")
        return self.prefill(test, gguf) if test.kind == "prefill" else self.batched(test, gguf)

    def prefill(self, test, gguf):
        setup = self.runner.setup
        command = [self.bench, "-m", gguf, "-t", setup.threads, "-p", test.prompt, "-n", 0]
        command += ["-r", setup.samples_per_process, "-o", "json", *self.bench_args]
        done = self.runner.run(self.name, command)
        try:
            (entry,) = json.loads(done.stdout[done.stdout.index("[\n") :])
            return [Row("prefill", 1, False, entry["samples_ts"])]
        except (ValueError, KeyError) as error:
            raise CannotRun(f"cannot read its JSON: {error!r}") from error

    def batched(self, test, gguf):
        setup = self.runner.setup
        positions = max(test.batches) * (test.prompt + test.generate)
        # One batch more at the start, whose sample is dropped.
        batches = [test.batches[0]] + list(test.batches) * setup.samples_per_process
        command = [self.batched_bench, "-m", gguf, "-t", setup.threads, "-c", positions]
        command += ["-npp", test.prompt, "-ntg", test.generate, "-npl", ",".join(map(str, batches))]
        command += ["-pps"] if test.shared_prompt else []
        done = self.runner.run(self.name, command + list(self.batched_args))
        return table_rows(done.stdout + "\n" + done.stderr, batches, test)


def table_rows(text, batches, test):
    """Columns PP, TG, B, N_KV, T_PP, S_PP, T_TG, S_TG, T, S."""
    lines = [[float(cell) for cell in line.split("|")[1:-1]] for line in TABLE_ROW.findall(text)]
    seen = [int(cells[2]) for cells in lines]
    if seen != batches:
        raise CannotRun(f"its table has the batches {seen}, expected {batches}")
    samples = {}
    for cells in lines[1:]:
        samples.setdefault(int(cells[2]), []).append(cells[7])
    return [Row("generation", b, test.shared_prompt, values) for b, values in samples.items()]
