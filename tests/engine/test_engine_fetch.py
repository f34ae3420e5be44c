"""Downloads: what may be fetched, from where, how much, for how long. A real server on loopback answers."""

import io
import socket
import time

import pytest

from modelhubapi import fetch


def get(url, max_bytes=1000, max_seconds=5, allow_private=True):
    stream = io.BytesIO()
    fetch.fetch(url, stream, fetch.Limits(max_bytes, max_seconds, allow_private))
    return stream.getvalue()


def refusal(url, **limits):
    with pytest.raises(fetch.FetchError) as caught:
        get(url, **limits)
    return str(caught.value)


def test_a_file(web):
    web.files["/a b.bin"] = b"content"
    assert get(web.url + "/a%20b.bin?x=1") == b"content"
    assert get(" " + web.url.replace("http", "HTTP") + "/a%20b.bin ") == b"content"


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1%eth0", "fc00::1",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2001:db8::1", "2002:7f00:1::",
    "2001::1"])
def test_addresses_that_are_not_public(address):
    assert not fetch.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "172.32.0.1", "1.1.1.1", "192.169.0.1", "2606:4700::1111"])
def test_public_addresses(address):
    assert fetch.is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "0"])
def test_spellings_of_this_machine_are_refused(web, host):
    text = refusal("http://%s:%d/x" % (host, web.port), allow_private=False)
    assert "not on the public internet" in text or "could not be fetched" in text
    assert web.asked == []


def test_a_name_with_a_public_and_a_private_address_is_refused(web, monkeypatch):
    both = [(2, 1, 6, "", ("8.8.8.8", 80)), (2, 1, 6, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments: both)
    assert "not on the public internet" in refusal("http://name.example/", allow_private=False)


def test_a_name_is_looked_up_once(web, monkeypatch):
    """The connection goes to the address that was checked, not to what the name means by then."""
    web.files["/x"] = b"right"
    lookups = []
    real = socket.getaddrinfo

    def answer(host, *rest):
        lookups.append(host)
        if host != "name.example":
            return real(host, *rest)
        return [(2, 1, 6, "", ("127.0.0.1" if len(lookups) == 1 else "192.0.2.1", web.port))]
    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert get("http://name.example:%d/x" % web.port) == b"right"
    assert lookups.count("name.example") == 1 and web.hosts == ["name.example:%d" % web.port]


@pytest.mark.parametrize("url", [
    "ftp://host/x", "file:///etc/passwd", "http:///x", "http://user:word@host/", "//host/x",
    "http://host:port/", "http://[::1/"])
def test_other_addresses_are_refused(url):
    refusal(url)


def test_redirects_are_followed_and_checked(web, monkeypatch):
    web.files["/x"] = b"content"
    web.redirects["/to-x"] = "/x"
    web.redirects["/round"] = "/round"
    web.redirects["/file"] = "file:///etc/passwd"
    web.redirects["/inside"] = "http://169.254.169.254/latest"
    assert get(web.url + "/to-x") == b"content"
    assert "redirects" in refusal(web.url + "/round")
    assert "only http and https" in refusal(web.url + "/file")
    seen = []
    monkeypatch.setattr(fetch, "is_public", lambda address: seen.append(address) or address == "127.0.0.1")
    text = refusal(web.url + "/inside", allow_private=False)
    assert "169.254.169.254 is not on the public internet" in text
    assert seen == ["127.0.0.1", "169.254.169.254"]


def test_a_status_that_is_no_success(web):
    assert "status 404" in refusal(web.url + "/none")


def test_more_than_the_limit(web):
    web.files["/big"] = b"x" * 1001
    assert "more than the limit of 1000 bytes" in refusal(web.url + "/big")
    web.files["/fits"] = b"x" * 1000
    assert len(get(web.url + "/fits")) == 1000


def test_a_body_that_breaks_off(web):
    web.files["/cut"] = b"x" * 100
    web.declare["/cut"] = 200
    assert "broke off" in refusal(web.url + "/cut") or "IncompleteRead" in refusal(web.url + "/cut")


def test_an_encoding_that_was_not_asked_for(web):
    web.files["/packed"] = b"x"
    web.encodings["/packed"] = "gzip"
    assert "encoding" in refusal(web.url + "/packed")


def test_a_server_that_trickles_is_left(web):
    web.files["/slow"] = b"x" * 100
    web.pause["/slow"] = 0.2
    before = time.time()
    text = refusal(web.url + "/slow", max_seconds=1)
    assert time.time() - before < 5 and "took longer than 1 s" in text
