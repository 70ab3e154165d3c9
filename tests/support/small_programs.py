"""Twelve small programming problems in the manner of MBPP, written for this project."""

from __future__ import annotations

from typing import Any, NamedTuple


class SmallProgram(NamedTuple):
    """A task in words, a function that solves it, and three tests."""

    text: str
    name: str
    code: str
    # Arguments of each test, and what the function returns for them.
    cases: tuple[tuple[list[Any], Any], ...]

    @property
    def tests(self) -> list[str]:
        return [
            f"assert {self.name}({', '.join(map(repr, arguments))}) == {value!r}"
            for arguments, value in self.cases
        ]


SMALL_PROGRAMS = (
    SmallProgram(
        "Write a function to add up the even numbers of a list.",
        "add_even",
        "def add_even(numbers):\n    return sum(n for n in numbers if n % 2 == 0)\n",
        (([[1, 2, 4]], 6), ([[3]], 0), ([[8, 8]], 16)),
    ),
    SmallProgram(
        "Write a function to count the vowels of a word.",
        "count_vowels",
        'def count_vowels(word):\n    return sum(c in "aeiou" for c in word)\n',
        ((["tree"], 2), (["sky"], 0), (["audio"], 4)),
    ),
    SmallProgram(
        "Write a function to turn a list around.",
        "turn_around",
        "def turn_around(items):\n    return items[::-1]\n",
        (([[1, 2]], [2, 1]), ([[]], []), ([[3, 1, 2]], [2, 1, 3])),
    ),
    SmallProgram(
        "Write a function to find the longest word of a text.",
        "longest_word",
        "def longest_word(text):\n    return max(text.split(), key=len)\n",
        ((["a bee"], "bee"), (["one"], "one"), (["up there"], "there")),
    ),
    SmallProgram(
        "Write a function to tell whether a number is a square.",
        "is_square",
        "def is_square(number):\n    return int(number**0.5) ** 2 == number\n",
        (([9], True), ([10], False), ([1], True)),
    ),
    SmallProgram(
        "Write a function to keep each item of a list once.",
        "keep_once",
        "def keep_once(items):\n    return list(dict.fromkeys(items))\n",
        (([[1, 1, 2]], [1, 2]), ([[]], []), ([[3, 2, 3]], [3, 2])),
    ),
    SmallProgram(
        "Write a function to multiply the digits of a number.",
        "multiply_digits",
        "def multiply_digits(number):\n    product = 1\n    for digit in str(number):\n"
        "        product *= int(digit)\n    return product\n",
        (([23], 6), ([105], 0), ([7], 7)),
    ),
    SmallProgram(
        "Write a function to shift a list to the left by one.",
        "shift_left",
        "def shift_left(items):\n    return items[1:] + items[:1]\n",
        (([[1, 2, 3]], [2, 3, 1]), ([[]], []), ([[4]], [4])),
    ),
    SmallProgram(
        "Write a function to find the second largest number of a list.",
        "second_largest",
        "def second_largest(numbers):\n    return sorted(numbers)[-2]\n",
        (([[1, 3, 2]], 2), ([[5, 4]], 4), ([[7, 9, 8]], 8)),
    ),
    SmallProgram(
        "Write a function to join words with commas.",
        "join_words",
        'def join_words(words):\n    return ", ".join(words)\n',
        (([["a", "b"]], "a, b"), ([["x"]], "x"), ([[]], "")),
    ),
    SmallProgram(
        "Write a function to find the distance of two numbers.",
        "distance",
        "def distance(a, b):\n    return abs(a - b)\n",
        (([1, 4], 3), ([4, 1], 3), ([2, 2], 0)),
    ),
    SmallProgram(
        "Write a function to repeat each letter of a word.",
        "repeat_letters",
        'def repeat_letters(word):\n    return "".join(2 * c for c in word)\n',
        ((["ab"], "aabb"), ([""], ""), (["xyz"], "xxyyzz")),
    ),
)
