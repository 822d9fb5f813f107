from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.web import Server, picture, serving

from ovseg.errors import ImageError
from ovseg.images.find import find_images
from ovseg.images.load import load_image
from ovseg.images.web import fetch, is_address, name_of


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as running:
        yield running


def test_an_address_is_read_whatever_type_its_header_says(server: Server) -> None:
    pixels = load_image(f"{server.address}/cat.png")
    assert pixels.shape == (40, 60, 3) and pixels[0, 0].tolist() == [200, 100, 50]
    assert load_image(f"{server.address}/my cät/dog.png?size=2 x")[0, 0].tolist() == [0, 0, 255]
    assert server.asked == ["/cat.png", "/my%20c%C3%A4t/dog.png?size=2%20x"]


def test_redirects_are_followed_to_http_alone(server: Server) -> None:
    assert fetch(f"{server.address}/moved.png") == picture()
    for path in ("to-file", "to-ftp", "loop"):
        with pytest.raises(ImageError, match=rf"/{path}' leads to '.*', which is no further http or https address"):
            fetch(f"{server.address}/{path}")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.png", r"gone\.png' answers 404 \(Not Found\); check the address"),
        ("page.jpg", r"page\.jpg' is a web page; give the address or the file of the image itself"),
        ("empty.png", r"empty\.png' is empty \(0 bytes\)"),
        ("large.png", r"large\.png' has 999999999 bytes or more, the limit is 200000000; download it"),
        ("broken.png", r"broken\.png' broke off after \d+ of 5000 bytes; try again"),
    ],
)
def test_a_bad_answer_is_told_in_one_sentence(server: Server, path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as told:
        load_image(f"{server.address}/{path}")
    assert "\n" not in str(told.value)


def test_an_answer_without_end_is_cut_by_bytes_or_by_time(server: Server) -> None:
    with pytest.raises(ImageError, match=r"endless\.png' has \d+ bytes or more, the limit is 3000"):
        fetch(f"{server.address}/endless.png", max_bytes=3000)
    with pytest.raises(ImageError, match=r"dripping\.png' took too long to answer"):
        fetch(f"{server.address}/dripping.png", patience=0.1)


def test_what_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    for address in (
        "http://127.0.0.1:1/a.png",
        "http://127.0.0.1:99999/a.png",
        "http:///a.png",
        "http://[::1/a.png",
    ):
        with pytest.raises(ImageError, match=r"cannot (reach|fetch) '") as told:
            load_image(address)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("address", ["file:///etc/hostname", "FTP://a.b/c.png", "s3://a/b.png"])
def test_other_schemes_are_refused(address: str) -> None:
    assert not is_address(address)
    for function in (load_image, find_images):
        with pytest.raises(ImageError, match="an address must begin with http:// or https://, got"):
            function(address)


def test_an_address_as_a_path_object_is_refused() -> None:
    with pytest.raises(ImageError, match="as a path, which loses a slash; give text"):
        load_image(Path("https://a.b/c.jpg"))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://a.b/photos/cat.jpg?size=2#top", "cat.jpg"),
        ("https://a.b/my%20cat.jpg", "my cat.jpg"),
        ("https://a.b/", "a.b"),
        ("https://a.b/x/..%2F..%2Fetc", "etc"),
        ("https://a.b/..", "a.b"),
        ("https://a.b/a%5Cb%00.png", "a_b_.png"),
    ],
)
def test_the_name_is_the_last_part_of_the_path(address: str, name: str) -> None:
    assert name_of(address) == name
