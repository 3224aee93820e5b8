"""Passes take a core each while many pictures wait, and all cores while few do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pix2score.service.seats import Seats


class Hall:
    """Pictures that wait for a pass, and passes that end when told to."""

    def __init__(self, num: int, *, batch_size: int = 1, can_spread: bool = True) -> None:
        self.seats = Seats(num, batch_size=batch_size, can_spread=can_spread)
        self.ready: list[str] = []
        self.begun: dict[str, bool] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        """So many pictures at a time, each of a pass of its own."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._one(name))
        await settled()

    async def _one(self, name: str) -> None:
        async with self.seats.waiting(name):
            self.ready.append(name)
            async with self.seats.taken([name]) as has_all:
                self.begun[name] = has_all
                await self._ends[name].wait()

    async def come_together(self, *names: str) -> None:
        """While another has all cores, which are free again then."""
        await self.come("before")
        await self.come(*names)
        await self.end("before")

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await settled()

    async def go_away(self, name: str) -> None:
        self._tasks[name].cancel()
        await settled()

    async def all_gone(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))  # type: ignore[arg-type]


def test_one_picture_gets_all_cores_and_the_next_one_after_it_too() -> None:
    async def story() -> None:
        hall = Hall(2)
        await hall.come("a")
        await hall.come("b")
        assert hall.begun == {"a": True}
        await hall.end("a")
        assert hall.begun == {"a": True, "b": True}
        await hall.all_gone()

    run(story)


@pytest.mark.parametrize("num", [2, 4])
def test_as_many_as_there_are_cores_get_one_each_and_more_of_them_wait(num: int) -> None:
    async def story() -> None:
        hall = Hall(num)
        names = [str(i) for i in range(num + 2)]
        await hall.come_together(*names)
        assert hall.begun == {"before": True, **dict.fromkeys(names[:num], False)}
        await hall.end("0")
        assert hall.begun == {"before": True, **dict.fromkeys(names[: num + 1], False)}
        await hall.all_gone()

    run(story)


def test_fewer_than_there_are_free_cores_wait_for_all_of_them() -> None:
    async def story() -> None:
        hall = Hall(4)
        await hall.come_together("a", "b", "c", "d")
        await hall.end("a", "b")
        await hall.come("e")
        assert "e" not in hall.begun  # two are free for one
        await hall.end("c")
        assert "e" not in hall.begun
        await hall.end("d")
        assert hall.begun["e"] is True
        await hall.all_gone()

    run(story)


def test_a_picture_that_comes_may_make_them_enough() -> None:
    async def story() -> None:
        hall = Hall(4)
        await hall.come_together("a", "b", "c", "d")
        await hall.end("a", "b")
        await hall.come("e")
        await hall.come("f")
        assert hall.begun["e"] is hall.begun["f"] is False
        await hall.all_gone()

    run(story)


def test_who_goes_away_while_waiting_is_counted_no_more() -> None:
    async def story() -> None:
        hall = Hall(2)
        await hall.come("a")
        await hall.come("b", "c")
        await hall.go_away("b")
        await hall.end("a")
        assert hall.begun == {"a": True, "c": True}
        await hall.all_gone()

    run(story)


def test_a_pass_that_breaks_off_gives_its_seats_back() -> None:
    async def story() -> None:
        hall = Hall(2)
        await hall.come("a")
        await hall.come("b")
        await hall.go_away("a")
        assert hall.begun["b"] is True
        await hall.all_gone()

    run(story)


def test_passes_of_a_gpu_take_turns_and_pictures_gather_outside_meanwhile() -> None:
    async def story() -> None:
        hall = Hall(2, can_spread=False, batch_size=8)
        await hall.come("a", "b")
        await hall.come("c")
        assert hall.begun == {"a": False, "b": False}
        assert hall.ready == ["a", "b"]  # "c" may still be joined by others
        await hall.end("a")
        assert hall.begun["c"] is False
        await hall.all_gone()

    run(story)


def test_what_waits_is_counted_in_passes() -> None:
    async def story() -> None:
        hall = Hall(2, batch_size=4)
        await hall.come_together("a", "b", "c", "d")  # one pass could take all four
        assert hall.begun["a"] is True
        await hall.all_gone()

    run(story)
