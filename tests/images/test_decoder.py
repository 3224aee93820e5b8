"""The decode child: the same pixels as in-process, and whatever happens to it costs one image in bounded
time."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pix2score.errors import ImageFailure
from pix2score.images.decode import FORMATS, shrink, to_rgb
from pix2score.images.decoder import NUM_ATTEMPTS, Decoder
from pix2score.images.preprocess import Preprocess
from tests.support.pictures import encode, noise, png

SIZE = Preprocess(size=16)
FINE = encode(noise(20, 30))


@functools.cache
def black(side: int) -> bytes:
    """A black picture that takes long to decode."""
    return png(side, side, rows=bytes((side * 3 + 1) * side))


def slow() -> bytes:
    """36 megapixels in 130 kB: some tenths of a second to decode."""
    return black(6_000)


def slowest() -> bytes:
    """90 megapixels in 300 kB: one to two seconds of processor time."""
    return black(9_500)


@pytest.fixture(scope="module")
def one_decoder() -> Iterator[Decoder]:
    decoder = Decoder(SIZE)
    yield decoder
    decoder.close()


@pytest.fixture
def decoder(one_decoder: Decoder) -> Decoder:
    """One for all tests: a start costs 0.3 s."""
    assert_still_fine(one_decoder)  # the child stands
    return one_decoder


def failure_of(decoder: Decoder, data: bytes) -> ImageFailure:
    with pytest.raises(ImageFailure) as caught:
        decoder(data)
    return caught.value


def pid_of(decoder: Decoder) -> int:
    assert decoder.pid is not None
    return decoder.pid


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def assert_still_fine(decoder: Decoder) -> None:
    assert decoder(FINE) == to_rgb(FINE, SIZE).tobytes()


def test_pixels_are_those_of_the_calling_process(decoder: Decoder) -> None:
    for form in FORMATS:
        data = encode(noise(33, 21), form)
        pixels = np.frombuffer(decoder(data), np.uint8).reshape(16, 16, 3)
        assert np.array_equal(pixels, to_rgb(data, SIZE))


def test_images_and_pixels_that_no_pipe_holds_at_once_arrive_whole() -> None:
    preprocess = Preprocess(size=1_100)  # 3.6 MB of pixels
    data = png(1_200, 1_200, rows=b"".join(b"\0" + os.urandom(3_600) for _ in range(1_200)))
    decoder = Decoder(preprocess)
    for _ in range(2):
        assert decoder(data) == to_rgb(data, preprocess).tobytes()
    decoder.close()


def test_a_short_side_asks_for_shard_bytes() -> None:
    decoder = Decoder(10)
    try:
        assert decoder(FINE) == shrink(FINE, 10)
        assert decoder(encode(noise(9, 9))) == encode(noise(9, 9))
    finally:
        decoder.close()


def test_one_child_serves_many_images(decoder: Decoder) -> None:
    pid = pid_of(decoder)
    large = encode(noise(600, 600))  # larger than a pipe holds
    for _ in range(3):
        assert decoder(large) == to_rgb(large, SIZE).tobytes()
        assert_still_fine(decoder)
    assert decoder.pid == pid


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "EMPTY"),
        (b"<html>", "UNSUPPORTED"),
        (FINE[:-200], "TRUNCATED"),
        (png(20_000, 20_000), "TOO_LARGE"),
        (FINE[:60] + bytes(100) + FINE[160:], "CORRUPT"),
    ],
)
def test_failures_carry_the_code_and_detail_of_the_child(decoder: Decoder, data: bytes, code: str) -> None:
    pid = pid_of(decoder)
    with pytest.raises(ImageFailure) as here:
        to_rgb(data, SIZE)
    there = failure_of(decoder, data)
    assert (there.code, there.detail) == (code, here.value.detail)
    assert_still_fine(decoder)
    assert decoder.pid == pid, "a bad image must not cost the child"


def test_a_child_killed_from_outside_costs_no_image(decoder: Decoder) -> None:
    expected = decoder(slow())
    pid = pid_of(decoder)
    timer = threading.Timer(0.05, os.kill, (pid, signal.SIGKILL))
    timer.start()
    assert decoder(slow()) == expected
    timer.join()
    assert decoder.pid != pid


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM])
def test_any_signal_from_outside_costs_no_image(decoder: Decoder, signum: int) -> None:
    os.kill(pid_of(decoder), signal.SIGSTOP)
    decoder.begin(FINE)
    os.kill(pid_of(decoder), signum)
    os.kill(pid_of(decoder), signal.SIGCONT)
    assert_still_fine(decoder)


def kill_every_child(decoder: Decoder, signum: int, num_children: int) -> threading.Thread:
    """Kill so many children of ``decoder`` soon after they have stood up, one after the other."""

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < num_children:
            pid = decoder.pid
            if pid and pid not in killed:
                os.kill(pid, signum)
                killed.add(pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def killing(decoder: Decoder) -> Iterator[None]:
    """Kill all children of ``decoder`` that stand up inside the block."""
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(0.01):
            if pid := decoder.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_an_image_whose_child_is_killed_twice_from_outside_is_answered(decoder: Decoder) -> None:
    data = slow()
    killer = kill_every_child(decoder, signal.SIGKILL, NUM_ATTEMPTS - 1)
    assert decoder(data) == bytes(16 * 16 * 3)
    killer.join(timeout=5)
    assert not killer.is_alive()


def test_an_image_whose_every_child_is_killed_is_crashed_and_said_to_be_so_from_outside(
    decoder: Decoder,
) -> None:
    data = slow()
    with killing(decoder):
        failure = failure_of(decoder, data)
    assert failure.code == "CRASHED"
    assert "killed by SIGKILL from outside" in failure.detail
    assert_still_fine(decoder)


@pytest.mark.parametrize("dead", [False, True], ids=["dying", "dead"])
@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_what_decoding_dies_of_is_the_images_at_once(decoder: Decoder, signum: int, dead: bool) -> None:
    pid = pid_of(decoder)
    os.kill(pid, signal.SIGSTOP)
    decoder.begin(FINE)
    os.kill(pid, signum)
    os.kill(pid, signal.SIGCONT)
    while dead and is_alive(pid):
        time.sleep(0.01)
    failure = failure_of(decoder, FINE)
    assert (failure.code, failure.detail) == (
        "CRASHED",
        f"decoding ended its process by {signal.Signals(signum).name}",
    )


def test_a_child_that_died_between_images_costs_none(decoder: Decoder) -> None:
    os.kill(pid_of(decoder), signal.SIGKILL)
    while is_alive(pid_of(decoder)):
        time.sleep(0.01)
    assert_still_fine(decoder)


def test_an_image_that_takes_too_much_processor_time_is_given_up_in_time() -> None:
    decoder = Decoder(SIZE, timeout_s=0.2)
    try:
        data = slowest()
        start = time.monotonic()
        failure = failure_of(decoder, data)
        assert time.monotonic() - start < 5
        assert (failure.code, failure.detail) == ("CRASHED", "decoding took over 0.2 s of processor time")
        assert_still_fine(decoder)
    finally:
        decoder.close()


def test_a_codec_that_waits_for_ever_is_given_up_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if 'pix2score.images.decoder' in sys.orig_argv:\n"
        "    from PIL import BmpImagePlugin\n"
        "    BmpImagePlugin.BmpImageFile.load = lambda self: time.sleep(60)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    decoder = Decoder(SIZE, timeout_s=1)
    try:
        assert_still_fine(decoder)
        start = time.monotonic()
        failure = failure_of(decoder, encode(noise(8, 8), "BMP"))
        assert time.monotonic() - start < 5
        assert (failure.code, failure.detail) == ("CRASHED", "decoding took over 1 s, waiting for something")
        assert_still_fine(decoder)
    finally:
        decoder.close()


def test_an_image_within_its_processor_time_is_answered_however_long_its_child_was_stopped() -> None:
    decoder = Decoder(SIZE, timeout_s=1)
    try:
        decoder(FINE)
        pid = pid_of(decoder)
        threading.Timer(0.05, os.kill, (pid, signal.SIGSTOP)).start()
        threading.Timer(0.8, os.kill, (pid, signal.SIGCONT)).start()
        start = time.monotonic()
        assert decoder(encode(noise(3000, 3000))) is not None
        assert time.monotonic() - start > 0.75
        assert decoder.pid == pid
    finally:
        decoder.close()


def test_a_child_that_stays_stopped_is_replaced_for_the_same_image() -> None:
    decoder = Decoder(SIZE, timeout_s=0.5)
    try:
        for data in (FINE, bytes(10 * 2**20), FINE):
            decoder(FINE)
            pid = pid_of(decoder)
            os.kill(pid, signal.SIGSTOP)
            start = time.monotonic()
            if data is FINE:
                assert_still_fine(decoder)
            else:  # more than the stopped child's pipe takes
                assert failure_of(decoder, data).code == "UNSUPPORTED"
            assert time.monotonic() - start < 8
            assert not is_alive(pid)
            assert_still_fine(decoder)
    finally:
        decoder.close()


def test_an_image_whose_every_child_is_stopped_is_crashed_and_said_to_have_been_stopped() -> None:
    decoder = Decoder(SIZE, timeout_s=0.5)
    try:
        stopper = kill_every_child(decoder, signal.SIGSTOP, NUM_ATTEMPTS)
        failure = failure_of(decoder, FINE)
        stopper.join(timeout=5)
        assert failure.code == "CRASHED"
        assert "was stopped" in failure.detail
        assert_still_fine(decoder)
    finally:
        decoder.close()


@pytest.mark.slow
def test_a_pause_of_the_whole_container_costs_no_image() -> None:
    """Owner and child are stopped far beyond the limit while the child is at work, and go on together: the
    child's answer is taken."""
    script = (
        "import sys\nfrom pix2score.images.decoder import Decoder\nfrom pix2score.images.preprocess import "
        "Preprocess\n"
        "from tests.images.test_decoder import FINE, slowest\n"
        "decoder, data = Decoder(Preprocess(size=16), timeout_s=6), slowest()\n"
        "decoder(FINE)\npid = decoder.pid\nprint(pid, flush=True)\n"
        "print(len(decoder(data)), decoder.pid == pid, flush=True)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [owner.pid, int(owner.stdout.readline())]
    time.sleep(0.1)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(10)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert owner.communicate(timeout=30)[0].split() == ["768", "True"]


def test_an_image_that_needs_more_memory_than_allowed_is_too_large() -> None:
    decoder = Decoder(SIZE, memory_bytes=300 * 2**20)
    try:
        failure = failure_of(decoder, png(9_500, 9_500, rows=bytes(1000)))
        assert failure.code == "TOO_LARGE"
        assert "memory" in failure.detail
        assert_still_fine(decoder)
    finally:
        decoder.close()


def test_an_image_within_the_pixel_limit_fits_the_default_memory(decoder: Decoder) -> None:
    assert decoder(slowest()) == bytes(16 * 16 * 3)


def test_the_child_ends_when_its_owner_is_killed() -> None:
    script = (
        "import sys, time\nfrom pix2score.images.decoder import Decoder\nfrom pix2score.images.preprocess "
        "import Preprocess\n"
        "decoder = Decoder(Preprocess(size=16))\ndecoder(bytes.fromhex(sys.argv[1]))\n"
        "print(decoder.pid, flush=True)\ntime.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", script, FINE.hex()], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert is_alive(pid)
    owner.kill()
    owner.wait()
    deadline = time.monotonic() + 20
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)


def test_the_next_image_is_taken_while_one_is_decoded_and_answers_keep_their_order(decoder: Decoder) -> None:
    pictures = [encode(noise(20 + i, 30)) for i in range(6)]
    decoder.begin(pictures[0])
    for this, following in zip(pictures, [*pictures[1:], None], strict=True):
        if following is not None:
            decoder.begin(following)
        assert decoder.finish(this) == to_rgb(this, SIZE).tobytes()


def test_an_image_too_large_to_be_taken_early_is_taken_in_its_turn(decoder: Decoder) -> None:
    large = encode(noise(1500, 1200), "BMP")
    assert len(large) > 5 * 2**20
    for this, following in ((FINE, large), (large, large), (FINE, FINE)):
        decoder.begin(this)
        decoder.begin(following)
        assert decoder.finish(this) == to_rgb(this, SIZE).tobytes()
        assert decoder.finish(following) == to_rgb(following, SIZE).tobytes()


def test_what_happens_to_one_image_does_not_happen_to_the_next_that_was_begun() -> None:
    decoder = Decoder(SIZE, memory_bytes=300 * 2**20, timeout_s=1)
    first = encode(noise(10, 10))
    try:
        for bad in (slowest(), b"not a picture"):
            decoder.begin(first)
            decoder.begin(bad)
            assert decoder.finish(first) == to_rgb(first, SIZE).tobytes()
            decoder.begin(FINE)
            with pytest.raises(ImageFailure):
                decoder.finish(bad)
            assert decoder.finish(FINE) == to_rgb(FINE, SIZE).tobytes()
        for signum in (signal.SIGSEGV, signal.SIGKILL, signal.SIGSTOP):
            decoder(first)
            os.kill(pid_of(decoder), signal.SIGSTOP)  # both wait in the pipe
            decoder.begin(first)
            decoder.begin(FINE)
            pid = pid_of(decoder)
            os.kill(pid, signum)
            if signum == signal.SIGSEGV:
                os.kill(pid, signal.SIGCONT)  # a stopped process meets it only then
                assert failure_of(decoder, first).code == "CRASHED"
            else:
                assert decoder.finish(first) == to_rgb(first, SIZE).tobytes()
            assert decoder.finish(FINE) == to_rgb(FINE, SIZE).tobytes()
    finally:
        decoder.close()


def test_an_image_of_which_a_stopped_child_got_a_part_is_answered_when_it_goes_on() -> None:
    large = encode(noise(1500, 1200), "BMP")
    decoder = Decoder(SIZE, timeout_s=0.5)
    try:
        decoder(FINE)
        pid = pid_of(decoder)
        os.kill(pid, signal.SIGSTOP)
        decoder.begin(large)
        if is_alive(pid):
            os.kill(pid, signal.SIGCONT)
        assert decoder.finish(large) == to_rgb(large, SIZE).tobytes()
        assert_still_fine(decoder)
    finally:
        decoder.close()


def test_an_image_that_was_begun_and_given_up_answers_for_no_other(decoder: Decoder) -> None:
    other = encode(noise(40, 50))
    decoder.begin(other)
    assert decoder(FINE) == to_rgb(FINE, SIZE).tobytes()
    decoder.begin(other)
    decoder.begin(FINE)
    assert decoder(FINE) == to_rgb(FINE, SIZE).tobytes()
    assert_still_fine(decoder)


def test_close_ends_the_child_and_can_be_repeated(decoder: Decoder) -> None:
    pid = pid_of(decoder)
    decoder.close()
    decoder.close()
    assert decoder.pid is None
    assert not is_alive(pid)


def test_the_child_imports_neither_torch_nor_arrow_nor_ray(decoder: Decoder) -> None:
    maps = Path(f"/proc/{pid_of(decoder)}/maps").read_text()
    assert "PIL" in maps
    assert not any(name in maps for name in ("libtorch", "libarrow", "/ray/"))
