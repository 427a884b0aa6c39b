"""unequal review: over HTTP, and in a real browser where Chromium is installed."""
import http.client
import json
import socket
import threading
import time

import numpy as np
import pytest

from helpers.browser import browser, overflow, show_at  # noqa: F401  a fixture
from helpers.pictures import encoded, smooth
from unequal.commands import cli, review
from unequal.data import pictures as images
from unequal.data.decisions import DecisionFile, read_decisions
from unequal.data.identities import write_names
from unequal.data.records import RecordSet, RecordWriter
from unequal.errors import InputError

NAMES = ["Ada", "Åsa <b>", "Chi\u202e", "Dee"]
SUSPECTS = """key,path,label,kind,suggested_label,confidence
2,Ada/1.jpg,0,wrong label,1,0.7
3,Ada/2.jpg,0,wrong label,1,0.9
7,Chi/0.jpg,2,stranger,,0.8
"""


@pytest.fixture
def people(tmp_path):
    """Four people of three pictures, keys 1 to 12, and a list of three suspects."""
    with RecordWriter(str(tmp_path / "set"), (16, 16)) as writer:
        for label in range(4):
            for number in range(3):
                writer.add(label, encoded(smooth(16, 16, 10 * label + number)))
    write_names(str(tmp_path / "set"), NAMES)
    (tmp_path / "list.csv").write_text(SUSPECTS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def serve(people):
    """Start servers on the same set and decisions; gives each one's Server."""
    servers = []

    def start():
        records = RecordSet(str(people / "set"))
        server = review.Server(review.Review(
            records, review.read_suspects(str(people / "list")),
            DecisionFile(str(people / "decisions.csv"))))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, path, body=None, token=None, **headers):
    """``(status, headers, body)`` of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    data = None if body is None else json.dumps(body) if isinstance(body, dict) else body
    connection.request("GET" if body is None else "POST", f"/{token or server.token}/{path}", data,
                       {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    try:
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def said(server, path, body=None):
    status, _, data = ask(server, path, body)
    assert status == 200, data
    return json.loads(data)


def test_pairs_come_together_the_surest_first(serve):
    listed = said(serve(), "suspects")["suspects"]
    assert [entry["key"] for entry in listed] == [3, 2, 7]
    assert listed[0] == {"key": 3, "label": 0, "name": "Ada", "kind": "wrong label",
                         "suggested": 1, "suggested_name": "Åsa <b>", "confidence": 0.9,
                         "decision": "", "decided_label": None, "decided_name": ""}


def test_typical_pictures_are_never_suspects(serve):
    server = serve()
    assert said(server, "typical/0")["keys"] == [1]
    assert said(server, "typical/2")["keys"] == [8, 9]
    assert said(server, "typical/1")["keys"] == [4, 5, 6]
    assert said(server, "typical/99")["keys"] == []


def test_pictures_are_jpegs_of_the_same_pixels(serve):
    status, headers, data = ask(serve(), "image/4")
    assert status == 200 and headers["Content-Type"] == "image/jpeg"
    np.testing.assert_allclose(images.decode(data, "answer").astype(int),
                               images.decode(encoded(smooth(16, 16, 10)), "sent"), atol=30)


def test_decisions_are_on_disk_before_the_answer(serve, people):
    server = serve()
    said(server, "decide", {"key": 3, "decision": "relabel", "label": 1})
    said(server, "decide", {"key": 2, "decision": "drop"})
    assert (people / "decisions.csv").read_text() == \
        "key,decision,label\n3,relabel,1\n2,drop,\n"
    state = said(server, "decide", {"key": 2, "decision": "undo"})["decisions"]
    assert state["2"]["decision"] == "" and state["3"]["decided_name"] == "Åsa <b>"
    assert read_decisions(str(people / "decisions.csv"))[2].decision == "unsure"
    assert said(serve(), "state")["decisions"]["3"]["decision"] == "relabel"  # started again


def test_two_pages_see_each_others_decisions(serve):
    one, other = serve(), serve()
    said(one, "decide", {"key": 3, "decision": "drop"})
    assert said(other, "state")["decisions"]["3"]["decision"] == "drop"
    said(other, "decide", {"key": 7, "decision": "keep"})
    assert said(one, "state")["decisions"]["7"]["decision"] == "keep"


def test_labels_are_found_by_name_and_number(serve):
    assert said(serve(), "find/%C3%A5sa")["labels"] == [[1, "Åsa <b>"]]
    assert said(serve(), "find/3")["labels"] == [[3, "Dee"]]


@pytest.mark.parametrize("path,token,headers,status", [
    ("", "wrong", {}, 404),
    ("suspects", "", {"Host": "evil.example"}, 403),
    ("suspects", "", {"Origin": "http://evil.example"}, 403),
    ("suspects", "", {"Origin": "null"}, 403),
    ("../../etc/passwd", "", {}, 404),
    ("image/../../property", "", {}, 404),
    ("image/999", "", {}, 404),
    ("image/x", "", {}, 404),
    ("image/" + "9" * 400, "", {}, 404),
    ("typical/x", "", {}, 404),
    ("nothing", "", {}, 404),
])
def test_nothing_else_is_reachable(serve, path, token, headers, status):
    assert ask(serve(), path, token=token or None, **headers)[0] == status


@pytest.mark.parametrize("target", ["http://[/", "//[", "*", "http://elsewhere"])
def test_a_target_that_is_no_path_is_answered(serve, target):
    server = serve()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", target, headers={"Host": f"127.0.0.1:{server.server_port}"})
    assert connection.getresponse().status == 404
    connection.close()


@pytest.mark.parametrize("body", [
    "", "x", "[]", "null", "[" * 900, '{"key": 1, "decision": "drop"}',
    '{"key": 3, "decision": "burn"}', '{"key": 3, "decision": "relabel"}',
    '{"key": 3, "decision": "relabel", "label": 77}', '{"key": "3,keep,\\n4", "decision": "drop"}',
    '{"key": 3, "decision": "drop", "x": "' + "y" * 1000 + '"}', '{"key": 1e999, "decision": ""}'])
def test_what_is_no_decision_is_refused(serve, people, body):
    assert ask(serve(), "decide", body)[0] == 400
    assert not (people / "decisions.csv").exists()


def test_a_decision_of_another_page_is_refused(serve, people):
    body = {"key": 3, "decision": "drop"}
    assert ask(serve(), "decide", body, Origin="http://evil.example")[0] == 403
    assert not (people / "decisions.csv").exists()


def test_the_page_runs_only_its_own_script(serve):
    status, headers, data = ask(serve(), "")
    policy = headers["Content-Security-Policy"]
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert status == 200 and "default-src 'none'" in policy and "NONCE" not in data.decode()
    assert data.decode().count(f'nonce="{nonce}"') == 2 == data.decode().count("nonce=")


@pytest.mark.parametrize("text,message", [
    ("key,label\n1,2\n", "line 2: expected the columns"),
    ("key,path,label,kind,suggested_label,confidence\n", "lists no picture"),
    ("key,path,label,kind,suggested_label,confidence\n77,a,0,x,,1\n", "has no image 77"),
    ("key,path,label,kind,suggested_label,confidence\n1," + "x" * 140000 + ",0,x,,1\n",
     "line 2: expected the columns"),
    ("key,path,label,kind,suggested_label,confidence\n1," + "x" * 300000 + ",0,x,,1\n",
     "line 2: is longer than"),
])
def test_a_bad_list_is_one_sentence(people, text, message, capsys):
    (people / "list.csv").write_text(text)
    assert cli.main(["review", str(people / "set"), str(people / "list"), "--out",
                     str(people / "d.csv")]) == 1
    assert message in capsys.readouterr().err


def test_more_suspects_than_anybody_reviews(people, monkeypatch):
    monkeypatch.setattr(review, "_MAX_SUSPECTS", 1)
    path = people / "list.csv"
    path.write_text("key,path,label,kind,suggested_label,confidence\n" + "1,a,0,x,,1\n" * 2)
    with pytest.raises(InputError, match="has more than 1 rows; nobody reviews so many"):
        review.read_suspects(str(path))


def test_the_references_list_without_a_table(people):
    (people / "old.txt").write_text("0 2 0.5 0.1\n")
    assert review.read_suspects(str(people / "old.txt")) == [
        review.Suspect(2, 0, "listed", None, 0.0)]
    with pytest.raises(InputError, match="none: no such file"):
        review.read_suspects(str(people / "none"))


def test_slow_clients_hold_no_more_than_their_share(serve, monkeypatch):
    """More connections than a page needs are closed at once, old ones after their time."""
    monkeypatch.setattr(review, "_CONNECTIONS", 2)
    server = serve()
    slow = []
    for count in (1, 2):
        slow.append(socket.create_connection(("127.0.0.1", server.server_port), timeout=10))
        slow[-1].sendall(b"GET / HTTP/1.0\r\nX: ")
        wait(lambda count=count: len(server._begun) == count)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(server, "state")
    monkeypatch.setattr(review, "_SECONDS", 0.0)
    for one in slow:
        assert one.recv(100) == b""
        one.close()
    monkeypatch.undo()
    wait(lambda: not server._begun)
    assert ask(server, "state")[0] == 200


def wait(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited 20 s for the page"
        time.sleep(0.02)


@pytest.fixture
def seen(people, browser):  # noqa: F811
    """Three functions: the text of the page's element of some id, pressing a key, and the lines of
    decisions so far."""
    from selenium.webdriver.common.by import By

    def text(name):
        return browser.find_element(By.ID, name).text

    def press(key):
        browser.find_element(By.TAG_NAME, "body").send_keys(key)

    def lines():
        path = people / "decisions.csv"
        return path.read_text().splitlines()[1:] if path.exists() else []

    return text, press, lines


def test_two_pages_side_by_side_in_a_browser(serve, people, browser, seen):  # noqa: F811
    """Neither overwrites the other; each learns of the other's decisions with its own next one."""
    text, press, lines = seen

    def tab(address):
        browser.switch_to.new_window("tab")
        browser.get(address)
        wait(lambda: text("title") == "Picture 1 of 3")
        assert text("group") == "Group of 2, 2 undecided." and text("kind") == "wrong label"
        return browser.current_window_handle

    first = browser.current_window_handle
    one, other = tab(serve().address), tab(serve().address)
    browser.switch_to.window(one)
    for again in range(3):
        press("k")
        wait(lambda count=again + 1: lines() == ["3,keep,"] * count
             and text("title") == "Picture 2 of 3")
        press("\ue012")  # the left arrow
        wait(lambda: text("title") == "Picture 1 of 3" and text("decision") == "keep")
    assert text("left") == "about 1 min left" and text("count") == "1 decided"
    browser.switch_to.window(other)
    assert text("title") == "Picture 1 of 3"  # it has not heard of it yet
    press("\ue014")
    wait(lambda: text("title") == "Picture 2 of 3")
    press("d")
    wait(lambda: lines()[3:] == ["2,drop,"] and text("count") == "2 decided")
    browser.switch_to.window(one)
    press("u")
    wait(lambda: lines()[4:] == ["3,unsure,"] and text("title") == "Picture 3 of 3")
    assert read_decisions(str(people / "decisions.csv"))[2].decision == "drop"
    for handle in (one, other):
        browser.switch_to.window(handle)
        browser.close()
    browser.switch_to.window(first)


def test_in_a_browser_by_keyboard_and_mouse(serve, browser, seen):  # noqa: F811
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    text, press, lines = seen
    server = serve()
    browser.get(server.address)
    wait(lambda: text("title") == "Picture 1 of 3")
    assert text("label") == "Ada" and text("suggested") == "Åsa <b>"  # as text, not as markup
    wait(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#proposed img")) == 3)
    press("r")
    wait(lambda: lines() == ["3,relabel,1"] and text("title") == "Picture 2 of 3")
    press("z")
    wait(lambda: lines()[1:] == ["3,unsure,"] and text("title") == "Picture 1 of 3")
    press("D")  # with Shift: the whole group
    wait(lambda: lines()[2:] == ["3,drop,", "2,drop,"] and text("title") == "Picture 3 of 3")
    assert not browser.find_element(By.CSS_SELECTOR, "[data-do=relabel]").is_enabled()
    press("o")
    search = browser.find_element(By.ID, "search")
    wait(lambda: browser.switch_to.active_element == search)
    search.send_keys("dee")
    wait(lambda: [found.text for found in browser.find_elements(
        By.CSS_SELECTOR, "#found button")] == ["Dee"])
    search.send_keys(Keys.ENTER)
    wait(lambda: lines()[4:] == ["7,relabel,3"] and text("count") == "3 decided")
    browser.find_element(By.CSS_SELECTOR, "[data-do=back]").click()
    browser.find_element(By.CSS_SELECTOR, "[data-do=keep]").click()
    wait(lambda: len(lines()) == 6)
    browser.refresh()
    wait(lambda: text("count") == "3 decided")
    for width in (1200, 400):
        for scheme in ("light", "dark"):
            show_at(browser, width, scheme)
            assert overflow(browser) <= 0, "the page is wider than the window"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
