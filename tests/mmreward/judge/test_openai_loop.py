"""A server's loop and client: one of each while the server's object lives, and no row loses the others."""

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image

from mmreward.judge.backends import openai_pictures
from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.openai import OpenAIBackend
from mmreward.judge.backends.openai_pictures import Pictures
from mmreward.judge.backends.openai_server import Group, Server
from mmreward.judge.prompt import Fixed, Prompt

DIGITS = ("0", "1", "2", "3", "4", "5")
ASKED = Prompt((Fixed("How good is it?"),))


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "mmreward-server" and thread.is_alive()]


@pytest.fixture
def counted(server, monkeypatch):
    """The server, which also notes from where it was asked."""
    accepted = []
    accept = server.get_request
    monkeypatch.setattr(server, "get_request", lambda: accepted.append(1) or accept())
    server.accepted = accepted
    return server


def test_batches_share_a_thread_and_a_connection(counted):
    before = set(threads())
    backend = OpenAIBackend.load(counted.url, "m", concurrency=1)
    for _ in range(5):
        backend.probabilities([ASKED], DIGITS)
    assert len(set(threads()) - before) == 1 and len(counted.bodies) == 5
    assert len(counted.accepted) == 1


def test_the_thread_ends_with_its_owner(server):
    before = set(threads())
    backend = OpenAIBackend.load(server.url, "m")
    backend.probabilities([ASKED], DIGITS)
    (thread,) = set(threads()) - before
    del backend
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_the_end_of_the_program_is_silent(server):
    code = f"""
from mmreward.judge.backends.openai import OpenAIBackend
from mmreward.judge.prompt import Fixed, Prompt
backend = OpenAIBackend.load({server.url!r}, "m")
print(backend.probabilities([Prompt((Fixed("x"),))], ("4",))[0][0].status)
"""
    ended = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, timeout=120)
    ours = [line for line in ended.stderr.splitlines() if "asyncio" in line or "socket" in line or "Traceback" in line]
    assert (ended.stdout, ended.returncode, ours) == ("ok\n", 0, [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_gets_a_loop_of_its_own(server):
    backend = OpenAIBackend.load(server.url, "m")
    child = os.fork()
    if child == 0:  # pytest must not go on in it
        ok = backend.probabilities([ASKED], DIGITS)[0][0].status == "ok"
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.probabilities([ASKED], DIGITS)[0][0].status == "ok"


def test_callers_share_the_slots_and_do_not_wait_for_all_of_each_other(server):
    server.pause = 0.02
    backend = OpenAIBackend.load(server.url, "m", concurrency=2)
    long = threading.Thread(target=backend.probabilities, args=([ASKED] * 120, DIGITS))
    long.start()
    while len(server.bodies) < 4:
        time.sleep(0.005)
    backend.probabilities([ASKED], DIGITS)
    assert len(server.bodies) < 90  # of the 121
    long.join()
    assert server.most == 2


def test_a_caller_that_is_interrupted_ends_its_requests(server, monkeypatch):
    server.pause = 0.05
    backend = OpenAIBackend.load(server.url, "m", concurrency=1)
    started = asyncio.run_coroutine_threadsafe

    def interrupted(work, loop):
        future = started(work, loop)

        def result():
            end = time.monotonic() + 10
            while not server.bodies and time.monotonic() < end:
                time.sleep(0.01)
            raise KeyboardInterrupt

        monkeypatch.setattr(future, "result", result)
        return future

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.probabilities([ASKED] * 50, DIGITS)
    asked = len(server.bodies)
    time.sleep(0.3)
    assert 0 < asked and len(server.bodies) <= asked + 1


def test_an_exception_that_nobody_foresaw_is_the_status_of_its_row(server):
    def breaks(stack):
        raise ZeroDivisionError("nobody foresaw this")

    good = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    groups = [Group(1, lambda stack: [good]), Group(2, breaks), Group(1, lambda stack: [{**good, "oops": 1}])]
    (one,), two, (three,) = Server(server.url, retries=0).send(groups)
    assert one.status == "ok" and [reply.status for reply in two] == ["error", "error"]
    assert "ZeroDivisionError: nobody foresaw this" in two[0].error
    assert three.status == "error" and "TypeError" in three.error and "oops" in three.error


def test_a_server_that_cannot_be_reached_is_said_in_bounded_time():
    with socket.socket() as full:  # takes no connection: its queue is full
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            backend = Server(f"http://127.0.0.1:{full.getsockname()[1]}/v1", timeout=0.3, retries=0)
            start = time.monotonic()
            ((reply,),) = backend.send([Group(1, lambda stack: [{"model": "m", "messages": []}])])
    assert reply.status == "timeout" and time.monotonic() - start < 5
    assert "did not take a connection in 1 try of 0.3 s; is the machine reachable" in reply.error


def test_rows_after_one_that_reached_no_server_ask_once_until_it_is_back(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    gone = Server(nobody, retries=1, concurrency=1)
    group = Group(1, lambda stack: [{"model": "m", "messages": []}])
    start = time.monotonic()
    replies = [reply for (reply,) in gone.send([group] * 40)]
    assert time.monotonic() - start < 4  # 40 rows of one second each, tried twice
    assert {reply.status for reply in replies} == {"io_error"}
    assert "after 2 tries" in replies[0].error and "after 1 try" in replies[-1].error
    assert "is the server running, and is the port right?" in replies[0].error
    gone.url = server.url
    back = Server(server.url, retries=1)
    back._unreachable = True
    server.answer = lambda body: (500, b"", {"retry-after-ms": "5"})
    back.send([group])
    back.send([group])
    assert len(server.bodies) == 3  # one, and then as many as always


class TestPictures:
    def test_the_least_used_are_forgotten_and_the_count_is_right(self, monkeypatch):
        images = [Image.effect_noise((16, 16), 50 + i) for i in range(5)]
        sizes = [len(Pictures().png(image)[1]) for image in images]
        monkeypatch.setattr(openai_pictures, "_KEPT_BYTES", sum(sizes[:3]) + 1)
        encode, encoded = openai_pictures._encode, []
        monkeypatch.setattr(openai_pictures, "_encode", lambda image: encoded.append(image) or encode(image))
        pictures = Pictures()
        for i in (0, 1, 2, 0, 3, 0, 1):  # 3 makes 1 go, which was not used for longest
            pictures.png(images[i])
        assert [images.index(image) for image in encoded] == [0, 1, 2, 3, 1]
        assert pictures._kept_bytes == sum(map(len, pictures._kept.values())) <= sum(sizes[:3]) + 1

    def test_an_image_that_could_not_be_encoded_is_tried_again(self, monkeypatch):
        encode, results = openai_pictures._encode, [MemoryError("full"), None]
        image = Image.new("RGB", (4, 4))

        def fails_once(image):
            if error := results.pop(0):
                raise error
            return encode(image)

        monkeypatch.setattr(openai_pictures, "_encode", fails_once)
        pictures = Pictures()
        with pytest.raises(MemoryError):
            pictures.png(image)
        assert pictures.png(image)[1] == encode(image) and not pictures._encoding

    def test_many_small_images_cost_no_more_each_than_few(self):
        """Work grows with the number of images, not with its square."""

        def seconds(count):
            images = [Image.new("RGB", (4, 4), (i % 256, i // 256, 0)) for i in range(count)]
            pictures = Pictures()
            start = time.process_time()
            for image in images:
                pictures.png(image)
            return time.process_time() - start

        seconds(100)
        assert seconds(4000) < 25 * seconds(500)


def test_memory_that_runs_out_while_an_image_is_encoded_is_an_error_of_its_row(server, monkeypatch):
    encode = openai_pictures._encode

    def fails(image):
        if image.size == (5, 5):
            raise MemoryError("full")
        return encode(image)

    monkeypatch.setattr(openai_pictures, "_encode", fails)
    prompts = [Prompt((Image.new("RGB", (side, side)), Fixed("?"))) for side in (4, 5, 6)]
    texts = [text for ((text,),) in OpenAIBackend.load(server.url, "m").generate(prompts, Sampling())]
    assert [text.status for text in texts] == ["ok", "error", "ok"] and "MemoryError" in texts[1].error
