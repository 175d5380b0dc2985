from spotinference_proxy.strip import UsageStripper


def shown(text: str) -> str:
    return UsageStripper(hides_final=True, hides_running=True).feed(text.encode()).decode()


def test_a_member_in_another_place_or_spelling_is_taken_out() -> None:
    assert shown('data: {"a":1, "usage" : {"b":{}} ,"z":2}\n\n') == 'data: {"a":1 ,"z":2}\n\n'


def test_only_the_member_of_the_event_itself_is_taken_out() -> None:
    text = 'data: {"a":1,"usage":{"x":1},"deep":{"k":0,"usage":{"y":1}}}\n\n'
    assert shown(text) == 'data: {"a":1,"deep":{"k":0,"usage":{"y":1}}}\n\n'


def test_what_cannot_be_cut_with_certainty_stays() -> None:
    for text in (
        'data: {"usage":{"x":1}}\n\n',
        'data: {"usage":null,"choices":[]}\n\n',
        'data: {"deep":{"k":0,"usage":{"y":1}}}\n\n',
        'data: {"usage":{"x":1},"a":"\n\n',
        ': a comment on "usage"\n\n',
        'data: {"usage":{"x":1},"deep":{"k":0,"usage":\ndata: {"y":1}}}\n\n',
    ):
        assert shown(text) == text
