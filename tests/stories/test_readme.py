"""The tour of README.md, command by command, against a fresh server."""

from pathlib import Path

import pytest
from tests.stories.tour import follow


@pytest.mark.slow
def test_the_tour_works_as_shown(tmp_path: Path) -> None:
    follow("README.md", tmp_path)
