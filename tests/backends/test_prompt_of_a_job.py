"""A prompt that is none is refused before an engine starts, by the name of its flag."""

from pathlib import Path

import pytest

from edgebench.backends.job import JobSettings
from edgebench.errors import UserError


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_an_empty_prompt_is_refused(tmp_path: Path, text: str | None) -> None:
    with pytest.raises(UserError, match="the prompt is empty; give --prompt some text"):
        JobSettings(tmp_path / "m.gguf", prompt=text).text()


def test_a_file_is_read_without_its_mark_and_refused_where_it_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    settings = JobSettings(tmp_path / "m.gguf", prompt_file=file)
    file.write_bytes(b"\xef\xbb\xbf\xc3\xa4\n")
    assert settings.text() == "\u00e4\n"
    for content, said in (
        (b"", "empty; give --prompt_file"),
        (b"\xff\xfe", "no text in UTF-8; give --prompt_file"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            settings.text()
