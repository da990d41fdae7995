"""A visit to the chatbot in the browser, with a real Chromium: asserted on what the page shows."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("nicegui")
pytest.importorskip("selenium")
pytest.importorskip("typer")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.payloads import PAYLOADS
from tests.ports import free_port
from tests.web_llms import FAILURE

if TYPE_CHECKING:
    from selenium.webdriver.remote.webelement import WebElement

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no Chromium with its driver; on Debian: apt install chromium chromium-driver",
    ),
]

ROOT = Path(__file__).parents[2]
SHOTS = os.environ.get("RAG_EMBED_SCREENSHOTS")
"""Folder to write pictures of the visit to; they are for looking at, nothing is compared with them."""

WATCH_STREAM = """
window.seen = [];
new MutationObserver(() => {
  const text = document.querySelector('.talk .answer-text.grow')?.textContent;
  if (text && text !== window.seen.at(-1)) window.seen.push(text);
}).observe(document.body, {subtree: true, childList: true, characterData: true});
"""

FERRY = """Ferry timetable

The ferry leaves the pier every twenty minutes. Bicycles travel free of charge, dogs pay half.

The captain comes from Bergen. Before he came to the lake he sailed to Iceland for ten years.
"""
CAFE = "The harbour café roasts its own beans. It opens at seven in the morning and closes at six. " * 30


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    """The real command in a process of its own."""
    port = free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = ["-m", "rag_embed.cli", "chat", "--web", "--store", str(folder / "store"), "--port", str(port)]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *command, *arguments], env=environment, stdout=log, stderr=log, cwd=folder
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert {path.name for path in folder.iterdir()} <= {"store", "store-chat", "server.log", "files"}


class Visitor:
    """A person with a browser."""

    def __init__(self, address: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        # Whatever is not this machine cannot be reached, as without a network.
        options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_window_size(1280, 900)
        self.address = address

    def open(self, path: str = "/") -> None:
        self.driver.get(self.address + path)
        self.wait(lambda: self.answers() or "passages in" in self.text or "is empty" in self.text)

    @property
    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    @property
    def focused(self) -> str | None:
        """What a screen reader calls that which has the keyboard."""
        return self.driver.switch_to.active_element.get_attribute("aria-label")

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def first(self, selector: str) -> WebElement | None:
        return next(iter(self.all(selector)), None)

    def wait(self, condition: Callable[[], Any], timeout_s: float = 60) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if result := condition():
                    return result
            except Exception as error:  # elements come and go while a page changes
                result = error
            assert time.monotonic() < deadline, f"{result!r} in:\n{self.text}"
            time.sleep(0.05)

    def find_shown(self, selector: str) -> list[WebElement]:
        return [each for each in self.all(selector) if each.is_displayed()]

    def find(self, selector: str) -> WebElement:
        found: WebElement = self.wait(lambda: self.find_shown(selector))[0]
        return found

    def click(self, selector: str) -> None:
        element = self.find(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def ask(self, question: str) -> None:
        box = self.find(".question-input textarea")
        box.send_keys(question)
        box.send_keys(Keys.ENTER)

    def answers(self) -> list[str]:
        return [each.text for each in self.all(".talk [aria-label=Answer]")]

    def wait_for_answers(self, number: int) -> str:
        self.wait(lambda: len(self.answers()) == number)
        return self.answers()[-1]

    def choose(self, label: str, value: str) -> None:
        self.find(f".q-select:has([aria-label='{label}'])").click()
        self.wait(lambda: [each for each in self.all("[role=option]") if each.text == value])[0].click()

    def picture(self, name: str) -> None:
        if SHOTS:
            time.sleep(0.6)  # until drawers have slid in
            self.driver.save_screenshot(str(Path(SHOTS, f"{name}.png")))

    def close(self) -> list[str]:
        """End the visit; return what the browser complained about."""
        log = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        self.driver.quit()
        return log


@contextmanager
def visiting(address: str) -> Iterator[Visitor]:
    visitor = Visitor(address)
    try:
        yield visitor
    except BaseException:
        if SHOTS:
            visitor.driver.save_screenshot(str(Path(SHOTS, "failed.png")))
        visitor.driver.quit()
        raise
    assert visitor.close() == []


def drop(visitor: Visitor, *paths: Path) -> None:
    visitor.first("input[type=file]").send_keys("\n".join(map(str, paths)))  # type: ignore[union-attr]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / "files" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_whole_visit(tmp_path: Path) -> None:
    llm = ("--llm", "tests.web_llms:TalkativeLLM")
    with serving(tmp_path, *llm) as address, visiting(address) as visitor:
        visitor.open()
        assert "The collection documents is empty" in visitor.text
        visitor.choose("LLM", "Quotes, no LLM")

        drop(visitor, write(tmp_path, "ferry.txt", FERRY), write(tmp_path, "café.md", CAFE))
        visitor.wait(lambda: "ferry.txt is ready: 1 passages" in visitor.text)
        visitor.wait(lambda: "café.md is ready:" in visitor.text)
        drop(visitor, write(tmp_path, "broken.pdf", b"%PDF-1.4 not really"))
        visitor.wait(lambda: "broken.pdf was not added: " in visitor.text)

        visitor.ask("Do bicycles cost anything?")
        answer = visitor.wait_for_answers(1)
        assert "Bicycles travel free of charge, dogs pay half." in answer
        assert "/c/" in visitor.driver.current_url
        visitor.click(".answer .citation")
        passage = visitor.find(".document-text .quote")
        assert passage.text == "Bicycles travel free of charge, dogs pay half."
        shown = "".join(
            each.get_attribute("textContent") or "" for each in visitor.all(".document-text .piece")
        )
        assert shown == FERRY
        assert "ferry.txt" in visitor.find(".document-panel .panel-title").text
        visitor.wait(lambda: visitor.focused == "Close the document")
        visitor.find(".document-panel .reasons").click()
        visitor.wait(lambda: "similarity 0." in visitor.find(".document-panel").text)
        visitor.picture("document")
        visitor.find("[aria-label='Close the document']").click()
        visitor.wait(lambda: visitor.focused == "Source 1: ferry.txt")

        visitor.ask("And dogs?")  # what it leans on is put in front of it
        answer = visitor.wait_for_answers(2)
        assert "Searched for: bicycles cost" in answer
        assert "dogs pay half" in answer

        background = "return getComputedStyle(document.body).backgroundColor"
        before = visitor.driver.execute_script(background)
        visitor.click("[aria-label='Dark or light']")
        visitor.wait(lambda: visitor.driver.execute_script(background) != before)
        visitor.picture("dark")
        visitor.click("[aria-label='Dark or light']")
        visitor.wait(lambda: visitor.driver.execute_script(background) == before)

        visitor.choose("LLM", "TalkativeLLM")
        visitor.driver.execute_script(WATCH_STREAM)
        visitor.ask("When does the café open?")
        answer = visitor.wait_for_answers(3)
        assert "You asked: When does the café open? See" in answer
        seen = visitor.driver.execute_script("return window.seen")
        assert len(seen) >= 3, "the answer did not come piece by piece"
        assert all(after.startswith(before) for before, after in pairwise(seen))
        assert [each.text for each in visitor.all(".answer-text .citation")] == ["[1]"]
        assert "[77]" in answer  # a number that cites nothing stays what it is: text

        visitor.ask("fail now")
        answer = visitor.wait_for_answers(4)
        assert FAILURE in answer
        assert "You asked:" in answer  # what had come is not lost
        visitor.ask("Please go on slowly")
        visitor.find("[aria-label='Stop the answer']").click()
        answer = visitor.wait_for_answers(5)
        assert "stopped" in answer
        path = visitor.driver.current_url.removeprefix(address)

        visitor.driver.refresh()
        assert visitor.wait_for_answers(5) == answer
        assert "Bicycles travel free of charge" in visitor.answers()[0]
        assert [each.text for each in visitor.all(".history-link")] == ["Do bicycles cost anything?"]
        visitor.picture("conversation")

        visitor.driver.set_window_size(390, 800)
        visitor.driver.refresh()
        visitor.wait_for_answers(5)
        width = visitor.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= visitor.driver.execute_script("return window.innerWidth")
        visitor.click(".answer .citation")
        panel = visitor.find(".document-panel")
        assert panel.rect["x"] >= 0
        assert panel.rect["width"] <= 390
        visitor.picture("narrow")
        cookies = visitor.driver.get_cookies()
        # The server ends, and comes again: the browser still finds its conversation, another does not.
    with serving(tmp_path, *llm) as address, visiting(address) as visitor:
        visitor.open(path)
        visitor.wait(lambda: "not one of this browser's" in visitor.text)
        assert visitor.answers() == []
        visitor.driver.delete_all_cookies()
        for cookie in cookies:
            visitor.driver.add_cookie(cookie)
        visitor.open(path)
        visitor.wait_for_answers(5)


def test_markup_does_nothing_but_show(tmp_path: Path) -> None:
    assert len(PAYLOADS) >= 50
    document = "\n\n".join(
        f"Payload number {n} is {payload} as you see." for n, payload in enumerate(PAYLOADS)
    )
    name = "<img src=x onerror=window.hacked=1>.txt"
    llm = ("--llm", "tests.web_llms:TalkativeLLM")
    with serving(tmp_path, *llm) as address, visiting(address) as visitor:
        visitor.open()
        drop(visitor, write(tmp_path, name, document))
        visitor.wait(lambda: f"{name} is ready" in visitor.text)
        question = "number 3? " + " ".join(PAYLOADS[:24:3])
        visitor.ask(question)
        visitor.wait_for_answers(1)
        assert visitor.find(".question").text == question
        assert visitor.find(".history-link").get_attribute("textContent").startswith("number 3? <script>")
        visitor.click(".answer .citation")
        visitor.find(".document-text")
        while buttons := [each for each in visitor.all(".document-panel button") if "Show more" in each.text]:
            buttons[0].click()
            time.sleep(0.5)
        shown = "".join(
            each.get_attribute("textContent") or "" for each in visitor.all(".document-text .piece")
        )
        assert shown == document
        visitor.choose("LLM", "Quotes, no LLM")
        visitor.ask("Which payload number is 7?")
        visitor.wait_for_answers(2)
        visitor.driver.refresh()
        visitor.wait_for_answers(2)
        assert visitor.driver.execute_script("return window.hacked") is None
        for tag in ("iframe", "form[action]", "base", "template", "img[src=x]", ".talk svg", ".talk style"):
            assert visitor.all(tag) == [], tag


def test_behind_a_token_nobody_comes_in_without_it(tmp_path: Path) -> None:
    token = "a-token-that-nobody-guesses"
    with serving(tmp_path, "--token", token) as address, visiting(address) as visitor:
        visitor.driver.get(address)
        assert "This server asks for its token" in visitor.text
        assert visitor.all(".question-input") == []
        visitor.open(f"/?token={token}")
        drop(visitor, write(tmp_path, "ferry.txt", FERRY))
        visitor.wait(lambda: "ferry.txt is ready" in visitor.text)
        visitor.open()  # the cookie is enough from now on, for pages, files and web sockets
        visitor.ask("Do bicycles cost anything?")
        assert "Bicycles travel free of charge" in visitor.wait_for_answers(1)
        assert token not in visitor.driver.current_url
        # All there is to complain about is the first visit, which was refused, and its icon.
        complaints = [entry["message"] for entry in visitor.driver.get_log("browser")]
        assert complaints
        assert all("401" in complaint for complaint in complaints), complaints
