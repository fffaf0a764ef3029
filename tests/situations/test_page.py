from .page import PAGE, to_markdown
from .situations import SITUATIONS


def test_the_page_is_the_list():
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), "python -m tests.situations.page"


def test_there_are_at_least_sixty_with_names_of_their_own():
    names = [situation.name for situation in SITUATIONS]
    assert len(set(names)) == len(names) >= 60
