"""Pages in Markdown as text for a terminal."""

from __future__ import annotations

import re

import pytest

from oellm.manuals.page_text import lay_out
from oellm.manuals.topics import Topic, list_topics, resolve_links

PAGE = """\
# A *page*

Some `code *kept*` and **bold words, over
two lines**, 2 * 3 * 4.
- first item, which is longer
  than the width
- second

<!-- left out -->
## Part

| name | what it is |
|---|---|
| `a\\|b` | short |
| c | longer than a line has room *for* |

    code  stays    as it is, however long that line may be

```csv
a,b
```
"""

SHOWN = """\
A page
======

Some `code *kept*` and bold
words, over two lines, 2 * 3
* 4.
- first item, which is longer
  than the width
- second

Part
----

name   what it is
-----  ----------------------
`a|b`  short

c      longer than a line has
       room for

code  stays    as it is, however long that line may be

    a,b
"""


def test_text_fits_the_width_and_code_stays_as_it_is() -> None:
    assert lay_out(PAGE, 29) == SHOWN


def test_a_table_whose_words_do_not_fit_becomes_a_list() -> None:
    table = "| name | kind | use |\n|---|---|---|\n| a_long_name | another_one | a b c d e f gh |\n"
    shown = "a_long_name\n    kind: another_one\n    use: a b c d e f\n      gh\n"
    assert lay_out(table, 22) == shown


def test_headings_are_bold_if_the_terminal_shows_it() -> None:
    assert lay_out("## Part\n", 80, bold=True) == "\x1b[1mPart\x1b[0m\n----\n"


def test_links_say_what_to_type() -> None:
    text = (
        "[docs/RESULTS.md](docs/RESULTS.md) [how](docs/WORKER.md#x) [oe-fetch](docs/oe-fetch.md) "
        "[clusters.json](clusters.json) [site](https://a.b/c) [above](#part)"
    )
    assert resolve_links(text, "README.md", list_topics()) == (
        "`oellm docs results` how (`oellm docs worker`) oe-fetch "
        "clusters.json site (https://a.b/c) above"
    )


@pytest.mark.parametrize("topic", list_topics(), ids=lambda topic: topic.name)
def test_every_page_fits_80_columns_apart_from_its_code(topic: Topic) -> None:
    page = resolve_links(topic.read(), topic.path, list_topics())
    blocks = re.findall(r"^```\w*\n(.*?)^```|^    (.*?)$", page, re.MULTILINE | re.DOTALL)
    code = {line.strip() for block in blocks for line in "\n".join(block).splitlines()}
    for line in lay_out(page, 80).splitlines():
        assert len(line) <= 80 or line.strip() in code
