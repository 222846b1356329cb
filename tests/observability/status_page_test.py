"""The status page in a real browser: figures, plots, heat map, light and dark, wide and narrow, and a server that goes away.

Usage: MOED_BINARY_DIR=build/release/bin python3 tests/observability/status_page_test.py [-v]
MOED_SCREENSHOTS=DIR keeps pictures of the page. Skipped where there is no Chromium.
"""
import os
import pathlib
import unittest

from browser import Browser, find
from load import Daemon, Load, skip

ROOT = "document.documentElement"


class StatusPageTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(ranks=2).__enter__()
        cls.url = f"http://{cls.daemon.metrics_address}/"
        cls.load = Load(cls.daemon).__enter__()
        cls.browser = Browser(find()).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.browser.__exit__()
        cls.load.__exit__()
        cls.daemon.__exit__()

    def keep(self, name):
        if "MOED_SCREENSHOTS" in os.environ:
            pathlib.Path(os.environ["MOED_SCREENSHOTS"]).mkdir(parents=True, exist_ok=True)
            self.browser.screenshot(pathlib.Path(os.environ["MOED_SCREENSHOTS"]) / f"{name}.png")

    def text(self, selector):
        return self.browser.evaluate(f"document.querySelector({selector!r}).textContent")

    def test_figures_plots_and_experts_are_shown_in_every_look(self):
        for scheme, width in (("light", 1320), ("dark", 1320), ("light", 390), ("dark", 800)):
            with self.subTest(scheme=scheme, width=width):
                self.browser.show(self.url, width=width, scheme=scheme)
                self.browser.wait_for(f"({ROOT}.dataset.samples | 0) >= {os.environ.get('MOED_SAMPLES', 3)}", 60)
                self.assertIsNone(self.browser.evaluate(f"{ROOT}.dataset.error || null"))
                self.assertEqual(self.browser.errors(), [])
                self.assertTrue(all(url.startswith(self.url) for url in self.browser.requests()), self.browser.requests())
                self.assertEqual(self.text("#state"), "serving")
                self.assertNotIn("–", self.text("#tiles .tile:nth-child(1) .value"))
                self.assertRegex(self.text("#tiles .tile:nth-child(4) .value"), r"\d (ms|s) p50")
                self.assertRegex(self.text("#tiles .tile:nth-child(6) .value"), r"^[01]\.\d\d mean")
                self.assertEqual(self.browser.evaluate("[...document.querySelectorAll('#ranks tr')].map(r => r.cells[0].textContent)"), ["0", "1"])
                drawn = self.browser.evaluate("[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('path').length)")
                self.assertEqual(len(drawn), 6)
                self.assertTrue(all(drawn), drawn)
                # Nothing sticks out sideways, and the heat map is not blank.
                self.assertLessEqual(self.browser.evaluate(f"{ROOT}.scrollWidth"), width)
                colors = self.browser.evaluate(
                    "(() => { const c = document.getElementById('heat'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                    " return new Set(Array.from({length: d.length / 4}, (_, i) => d[4 * i] << 16 | d[4 * i + 1] << 8 | d[4 * i + 2])).size; })()")
                self.assertGreater(colors, 5)
                background = self.browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
                self.assertEqual(sum(background) < 300, scheme == "dark")
                self.keep(f"status-{scheme}-{width}")

    def test_the_heat_map_names_what_is_under_the_pointer(self):
        self.browser.show(self.url)
        self.browser.wait_for(f"({ROOT}.dataset.samples | 0) >= 2", 60)
        box = self.browser.evaluate("(() => { const b = document.getElementById('heat'); b.scrollIntoView(); const r = b.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()")
        self.browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + box[2] - 4, y=box[1] + box[3] - 4)
        self.assertRegex(self.text("#tip"), r"^layer 3, expert 15, on rank 1\n")

    def test_pause_stops_asking(self):
        self.browser.show(self.url)
        self.browser.wait_for(f"({ROOT}.dataset.samples | 0) >= 2", 60)
        self.browser.evaluate("document.getElementById('pause').click()")
        self.assertEqual(self.text("#pause"), "Go on")
        before = self.browser.evaluate(f"{ROOT}.dataset.samples")
        self.browser.evaluate("new Promise(done => setTimeout(done, 2500))")
        self.assertEqual(self.browser.evaluate(f"{ROOT}.dataset.samples"), before)

    def test_a_server_that_goes_away_is_said_so(self):
        with Daemon(ranks=1) as daemon:
            self.browser.show(f"http://{daemon.metrics_address}/")
            self.browser.wait_for(f"({ROOT}.dataset.samples | 0) >= 2", 60)
        self.browser.wait_for("document.getElementById('problem').textContent.startsWith('No answer from the server since')", 30)
        self.assertEqual(self.text("#state"), "no answer")
        self.keep("status-gone")


if __name__ == "__main__":
    if find() is None:
        skip("the status page needs Chromium to be tested (Debian package chromium)")
    unittest.main()
