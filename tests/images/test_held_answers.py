"""A decode child says several answers at once; whatever ends it then, each picture has its own answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pix2score.benchmark.decode import cpu_s_of
from pix2score.errors import ImageFailure
from pix2score.images.decode import to_rgb
from pix2score.images.decoder import Decoder
from pix2score.images.preprocess import Preprocess
from pix2score.images.slots import NUM_SLOTS, SLOT_BYTES, Slots, shared_memory
from tests.images.test_decoder import is_alive, pid_of, slowest
from tests.support.pictures import encode, noise

SIZE = Preprocess(size=16)
PICTURES = [encode(noise(20 + i, 30)) for i in range(NUM_SLOTS)]


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    """Its limit is several times what ``slowest`` takes, also on a slow day of a slow machine."""
    decoder = Decoder(SIZE, timeout_s=6)
    decoder(PICTURES[0])
    yield decoder
    decoder.close()


def begin_while_stopped(decoder: Decoder, pictures: list[bytes]) -> int:
    pid = pid_of(decoder)
    os.kill(pid, signal.SIGSTOP)
    assert all(decoder.begin(data) for data in pictures)
    return pid


def finish(decoder: Decoder, data: bytes) -> bytes | str:
    """Pixels, or the code of the failure."""
    try:
        return decoder.finish(data)
    except ImageFailure as failure:
        return failure.code


def pixels(*pictures: bytes) -> list[bytes | str]:
    return [to_rgb(data, SIZE).tobytes() for data in pictures]


def num_writes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscw"])


def test_quick_pictures_that_wait_together_are_said_together(decoder: Decoder) -> None:
    pid = begin_while_stopped(decoder, PICTURES)
    assert not decoder.begin(PICTURES[0]), "it has as many as answers have room"
    before = num_writes(pid)
    os.kill(pid, signal.SIGCONT)
    assert [finish(decoder, data) for data in PICTURES] == pixels(*PICTURES)
    assert num_writes(pid) - before < NUM_SLOTS


def test_a_picture_on_which_none_waits_is_said_at_once(decoder: Decoder) -> None:
    before = num_writes(pid_of(decoder))
    assert [finish(decoder, data) for data in PICTURES] == pixels(*PICTURES)
    assert num_writes(pid_of(decoder)) - before == NUM_SLOTS


def test_a_picture_that_ends_the_child_takes_no_answer_before_it_and_no_picture_behind() -> None:
    decoder, bad = Decoder(SIZE, timeout_s=0.2), slowest()
    decoder(PICTURES[0])
    begun, pids = [*PICTURES[:2], bad, *PICTURES[2:4]], []
    pid = begin_while_stopped(decoder, begun)
    os.kill(pid, signal.SIGCONT)
    found = []
    for data in begun:
        found.append(finish(decoder, data))
        pids.append(decoder.pid)
    decoder.close()
    assert found == [*pixels(*PICTURES[:2]), "CRASHED", *pixels(*PICTURES[2:4])]
    assert pids[4] == pids[3] != pid, "what was begun behind it went to the next child at once"


def work_on(decoder: Decoder, begun: list[bytes]) -> int:
    """Begin pictures that wait for each other; return when the first ones are done and a slow one is not."""
    pid = begin_while_stopped(decoder, begun)
    before = cpu_s_of(pid)
    os.kill(pid, signal.SIGCONT)
    while cpu_s_of(pid) < before + 0.15:
        time.sleep(0.01)
    return pid


@pytest.mark.parametrize("signum", [signal.SIGSEGV, signal.SIGKILL])
def test_a_child_that_ends_with_answers_unsaid_costs_none_of_them(decoder: Decoder, signum: int) -> None:
    begun = [*PICTURES[:2], slowest(), PICTURES[2]]
    pid = work_on(decoder, begun)
    os.kill(pid, signum)
    while is_alive(pid):
        time.sleep(0.01)
    of_the_slow = "CRASHED" if signum == signal.SIGSEGV else bytes(16 * 16 * 3)
    expected = [*pixels(*PICTURES[:2]), of_the_slow, *pixels(PICTURES[2])]
    assert [finish(decoder, data) for data in begun] == expected


def test_a_child_that_is_stopped_with_answers_unsaid_costs_none_of_them(decoder: Decoder) -> None:
    begun = [PICTURES[0], slowest(), PICTURES[1]]
    pid = work_on(decoder, begun)
    os.kill(pid, signal.SIGSTOP)
    expected = [*pixels(PICTURES[0]), bytes(16 * 16 * 3), *pixels(PICTURES[1])]
    assert [finish(decoder, data) for data in begun] == expected
    assert not is_alive(pid)


def test_a_failure_among_pictures_that_wait_is_its_own(decoder: Decoder) -> None:
    begun = [PICTURES[0], b"no picture", PICTURES[1]]
    os.kill(begin_while_stopped(decoder, begun), signal.SIGCONT)
    good = pixels(PICTURES[0], PICTURES[1])
    assert [finish(decoder, data) for data in begun] == [good[0], "UNSUPPORTED", good[1]]


def test_answers_with_and_without_room_in_the_memory_keep_their_order() -> None:
    preprocess = Preprocess(size=600)
    assert SLOT_BYTES < 600 * 600 * 3
    decoder = Decoder(preprocess)
    begun = [PICTURES[0], b"no picture", PICTURES[1], PICTURES[2]]
    decoder(PICTURES[0])
    os.kill(begin_while_stopped(decoder, begun), signal.SIGCONT)
    large = [to_rgb(data, preprocess).tobytes() for data in PICTURES[:3]]
    assert [finish(decoder, data) for data in begun] == [large[0], "UNSUPPORTED", *large[1:]]
    decoder.close()


def test_memory_holds_the_last_answers_and_nobody_can_make_it_smaller() -> None:
    fd = shared_memory()
    written, read = Slots(fd), Slots(fd)
    for number in range(NUM_SLOTS + 1):
        assert read.get(number) is None
        assert written.put(number, number % 2, bytes([number]) * number)
    assert read.get(0) is None, "its place has been taken"
    for number in range(1, NUM_SLOTS + 1):
        answer = read.get(number)
        assert answer is not None
        assert (answer.status, answer.payload) == (number % 2, bytes([number]) * number)
    assert not written.put(NUM_SLOTS + 1, 0, bytes(SLOT_BYTES))
    large = read.get(NUM_SLOTS + 1)
    assert large is not None
    assert (large.size, large.payload) == (SLOT_BYTES, None)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)
