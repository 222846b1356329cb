"""Rules and dashboards against a real Prometheus that scrapes a real daemon under load.

Usage: MOED_BINARY_DIR=build/release/bin python3 tests/observability/prometheus_test.py [-v]
Skipped where promtool and prometheus are missing (Debian package prometheus).
"""
import json
import math
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from load import Daemon, Load, grpc, inference_pb2, skip, wait_until

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "deploy/observability"
README = FOLDER / "README.md"


def run(*command):
    done = subprocess.run(command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise AssertionError(f"{command} failed:\n{done.stdout}")
    return done.stdout


class FileTest(unittest.TestCase):

    def test_prometheus_takes_the_configuration_and_the_rules(self):
        self.assertIn("SUCCESS", run("promtool", "check", "config", "prometheus.yml"))

    def test_the_rules_do_what_their_unit_tests_expect(self):
        self.assertIn("SUCCESS", run("promtool", "test", "rules", "rules/moed.test.yml"))

    def test_every_alert_has_a_unit_test(self):
        alerts = set(re.findall(r"alert: (\w+)", (FOLDER / "rules/moed-alerts.yml").read_text()))
        tested = (FOLDER / "rules/moed.test.yml").read_text()
        self.assertEqual([a for a in alerts if a not in tested], [])

    def test_the_dashboards_are_what_their_script_makes(self):
        run(sys.executable, "grafana/make_dashboards.py", "--check")


def expressions(dashboard):
    """(panel title, query) of a dashboard file, with Grafana's variables filled in."""
    for panel in json.loads((FOLDER / "grafana" / dashboard).read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for name, value in (("$__rate_interval", "15s"), ("$model", ".*"), ("$instance", ".*")):
                query = query.replace(name, value)
            yield panel["title"], query


class Prometheus:
    """A Prometheus on a free port that scrapes one daemon every second."""

    def __init__(self, target):
        self.dir = tempfile.mkdtemp(prefix="moed-prometheus.")
        shutil.copytree(FOLDER / "rules", f"{self.dir}/rules")
        text = (FOLDER / "prometheus.yml").read_text().replace("moed:9090", target)
        text = text.replace("scrape_interval: 5s", "scrape_interval: 1s").replace("evaluation_interval: 15s", "evaluation_interval: 1s")
        pathlib.Path(self.dir, "prometheus.yml").write_text(text)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = open(f"{self.dir}/log", "wb")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.dir}/prometheus.yml", f"--storage.tsdb.path={self.dir}/data",
             f"--web.listen-address={self.address}"], stdout=self.log, stderr=subprocess.STDOUT)
        wait_until(self.is_ready, 60, "Prometheus did not become ready")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def get(self, path, **params):
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(params)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{params}: {error.read().decode()}") from None

    def query(self, expression):
        return self.get("query", query=expression)["result"]


class LiveTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("--metrics-vllm-aliases", ranks=2).__enter__()
        cls.load = Load(cls.daemon).__enter__()
        cls.prometheus = Prometheus(cls.daemon.metrics_address)
        wait_until(lambda: cls.count("count_over_time(up{job=\"moed\"}[1m])") >= 15, 90, "Prometheus did not scrape 15 times")

    @classmethod
    def tearDownClass(cls):
        cls.prometheus.close()
        cls.load.__exit__()
        cls.daemon.__exit__()

    @classmethod
    def count(cls, expression):
        return sum(float(r["value"][1]) for r in cls.prometheus.query(expression))

    def test_every_panel_of_every_dashboard_has_data(self):
        dashboards = sorted(path.name for path in (FOLDER / "grafana").glob("*.json"))
        self.assertEqual(dashboards, ["moed-experts.json", "moed-service.json"])
        num_queries = 0
        for name in dashboards:
            for title, query in expressions(name):
                with self.subTest(dashboard=name, panel=title, query=query):
                    values = [float(r["value"][1]) for r in self.prometheus.query(query)]
                    num_queries += 1
                    self.assertTrue(values, "no data")
                    # Quantiles and means of a phase that did not occur in the interval are not numbers.
                    self.assertTrue(any(math.isfinite(v) for v in values), values)
        self.assertGreater(num_queries, 70)

    def test_the_variables_of_the_dashboards_have_values(self):
        for label in ("model_name", "instance"):
            self.assertTrue(self.prometheus.get(f"label/{label}/values", **{"match[]": "moed_build_info"}))

    def test_every_rule_is_evaluated_and_what_it_names_is_scraped(self):
        groups = self.prometheus.get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        self.assertGreater(len(rules), 20)
        scraped = set(self.prometheus.get("label/__name__/values"))
        for rule in rules:
            with self.subTest(rule=rule["name"]):
                self.assertEqual(rule["health"], "ok", rule.get("lastError"))
                for metric in re.findall(r"\b(?:moed|process)[_:][a-z0-9_:]+", rule["query"]):
                    self.assertIn(metric, scraped)
                if rule["type"] == "recording":
                    self.assertTrue(self.prometheus.query(rule["name"]), "no data")
                else:
                    self.assertNotEqual(rule["state"], "firing", "a healthy daemon alerts")

    def test_the_readme_names_every_metric_and_no_other(self):
        status, text = self.daemon.http("/metrics")
        self.assertEqual(status, 200)
        exported = set(re.findall(r"^# TYPE (\S+)", text, re.M))
        documented = set(re.findall(r"`((?:moed_|process_|vllm:)\w+)`", README.read_text()))
        self.assertEqual(sorted(exported - documented), [], "exported, but not in the README")
        self.assertEqual(sorted(documented - exported), [], "in the README, but not exported")

    def test_a_refused_and_a_cancelled_request_are_counted(self):
        with self.assertRaises(grpc.RpcError):
            list(self.daemon.start("x", model="no such model"))
        wait_until(lambda: self.count('moed_grpc_server_handled_total{grpc_code="NOT_FOUND"}') > 0, 10, "the refusal was not scraped")
        wait_until(lambda: self.count('moed_requests_total{finish_reason="cancelled"}') > 0, 10, "no cancelled request was scraped")

    def test_cardinality_is_bounded(self):
        # Two ranks, four layers: what grows with them is counted in design, not in use.
        _, text = self.daemon.http("/metrics")
        self.assertLess(sum(1 for line in text.splitlines() if not line.startswith("#")), 2500)

    def test_totals_agree_with_the_api(self):
        self.load.__exit__()
        try:
            status = self.daemon.status()
            _, text = self.daemon.http("/metrics")
            for metric, value in (("moed_generation_tokens_total", status.num_generated_tokens), ("moed_prompt_tokens_total", status.num_prompt_tokens)):
                self.assertEqual(float(re.search(rf"^{metric}\{{.*\}} (\S+)$", text, re.M)[1]), value)
            rows = [float(v) for v in re.findall(r"^moed_moe_rank_tokens_total\{.*\} (\S+)$", text, re.M)]
            self.assertEqual(sum(rows), sum(rank.num_expert_rows for rank in status.ranks))
        finally:
            type(self).load = Load(self.daemon).__enter__()
            time.sleep(0)


if __name__ == "__main__":
    if shutil.which("promtool") is None or shutil.which("prometheus") is None:
        skip("rules and dashboards need promtool and prometheus to be tested (Debian package prometheus)")
    unittest.main()
