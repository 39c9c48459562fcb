"""Which messages a prompt keeps within a budget, and for how many turns it starts at the same message."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_server.core.context.cut import Sized, cut_of, within_budget
from parley_server.core.model import Message, Role

ROLES = {"u": Role.USER, "a": Role.ASSISTANT, "t": Role.TOOL}


def sized(roles: str, *, tokens: float = 10, first: int = 1) -> list[Sized]:
    return [
        Sized(Message(id=f"{role}{at}", role=ROLES[role]), position=at, tokens=tokens)
        for at, role in enumerate(roles, first)
    ]


def shown(roles: str, room: float) -> str:
    kept, left_out = within_budget(sized(roles), room)
    assert len(kept) + len(left_out) == len(roles)
    return " ".join(item.message.id for item in kept)


@pytest.mark.parametrize(
    ("roles", "room", "expected"),
    [
        ("uauau", 50, "u1 a2 u3 a4 u5"),
        ("uauau", 49, "u3 a4 u5"),
        ("uauau", 20, "u5"),
        ("uauau", 0, "u5"),
        ("uauat", 10, "u3 a4 t5"),
        ("uauatat", 70, "u1 a2 u3 a4 t5 a6 t7"),
        ("uauatat", 50, "u3 a4 t5 a6 t7"),
        ("uauatat", 30, "u3 a6 t7"),
        ("uauatat", 0, "u3 a6 t7"),
        ("aa", 10, "a2"),
        ("t", 0, "t1"),
        ("", 0, ""),
    ],
)
def test_the_oldest_messages_are_cut_and_the_newest_user_message_and_its_last_calls_are_kept(roles, room, expected):
    assert shown(roles, room) == expected


def test_tool_calls_within_a_turn_do_not_move_the_cut():
    room, history = 425, "ua" * 30
    first_kept = within_budget(sized(history + "u"), room)[0][0].message.id
    assert [within_budget(sized(history + "u" + "at" * calls), room)[0][0].message.id for calls in (1, 2)] == [
        first_kept,
        first_kept,
    ]


@pytest.mark.parametrize(("fitting", "turns"), [(32, 4), (64, 8), (130, 16)])
def test_with_messages_of_equal_size_the_cut_moves_once_in_several_turns(fitting, turns):
    first = [cut_of(sized("ua" * count), fitting * 10) for count in range(100, 200)]
    moves = [at for at in range(1, len(first)) if first[at] != first[at - 1]]
    assert {after - before for before, after in itertools.pairwise(moves)} == {turns}
    assert all(2 * (100 + at) - cut <= fitting for at, cut in enumerate(first))


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=60), room=st.integers(0, 400), gap=st.integers(1, 5))
def test_any_history_fits_and_starts_with_a_user_message(sizes, room, gap):
    history = sized(("ua" * 30)[: len(sizes)])
    for item, tokens in zip(history, sizes, strict=True):
        item.tokens, item.position = tokens, item.position * gap
    kept = history[cut_of(history, room) :]
    assert sum(item.tokens for item in kept) <= room
    assert not kept or kept[0].message.role is Role.USER
