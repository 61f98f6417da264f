"""How a message describes an HTML page."""

import time

import pytest

from sutro_async import InvalidResponseError, RetryPolicy, ServerError, SutroClient
from sutro_async._wire._html import describe_html
from tests.raw_server import raw_response, raw_server

PAGE = "an HTML page"

NGINX = """<html>\r
<head><title>502 Bad Gateway</title></head>\r
<body>\r
<center><h1>502 Bad Gateway</h1></center>\r
<hr><center>nginx/1.25.3</center>\r
</body>\r
</html>\r
<!-- a padding to disable MSIE and Chrome friendly error page -->\r
"""
APACHE = """<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN"
  "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" lang="en" xml:lang="en">
<head>
<title>Service unavailable!</title>
"""
CLOUDFLARE = """<!DOCTYPE html>
<!--[if lt IE 7]> <html class="no-js ie6 oldie" lang="en-US"> <![endif]-->
<!--[if gt IE 8]><!--> <html class="no-js" lang="en-US"> <!--<![endif]-->
<head>
<title>api.sutro.sh | 522: Connection timed out</title>
<meta charset="UTF-8" />
"""


@pytest.mark.parametrize(
    ("text", "description"),
    [
        (NGINX, "502 Bad Gateway"),
        (APACHE, "Service unavailable!"),
        (CLOUDFLARE, "api.sutro.sh | 522: Connection timed out"),
        ("<!doctype html><title>Down</title>", "Down"),
        ("<!DOCTYPE\n HTML><TITLE lang=en>Down</TITLE>", "Down"),
        ("<title>Down</title>", "Down"),
        ("\ufeff<html><title>Down</title>", "Down"),
        ("<!-- a --> <!--\n <b> -->\n<html><title>Down</title>", "Down"),
        ("<html><title>\n  Bad \t Gateway\n </title>", "Bad Gateway"),
        ("<html><title>Q&amp;A &#60;b&gt; &eacute;</title>", "Q&A <b> é"),
        ("<html><title>&#27;[31m\x1b&#8238;red</title>", "[31m red"),
        ("<html><title>Down", "Down"),
        ("<html><titles>no</titles><title>Down</title>", "Down"),
        ("<html><title>" + "a" * 301, "a" * 299 + "…"),
        ("<html>", PAGE),
        ("<body bgcolor=white>sorry", PAGE),
        ("<head></head>", PAGE),
        ("<html><title></title>", PAGE),
        ("<html><title> &nbsp; </title>", PAGE),
        ("<html><title", PAGE),
        ("<html>" + " " * 10_000 + "<title>Down</title>", PAGE),
        ("", None),
        (" ", None),
        ("<", None),
        ("<htmlx>", None),
        ("<bodyguard>", None),
        ("<!doctype xml>", None),
        ("<?xml version='1.0'?><error>no such job</error>", None),
        ("<!-- <html>", None),
        ("<h1>Down</h1>", None),
        ("Down <html>", None),
        ("&lt;html&gt;", None),
        ('{"detail": "<html><title>Down</title>"}', None),
    ],
)
def test_html_page_is_logged_as_its_title(text, description):
    assert describe_html(text) == description


@pytest.mark.parametrize(
    "text",
    [
        "<html>" + "<title" * 300_000,
        "<html>" + "<title " * 300_000,
        "<html><title" + " " * 1_000_000,
        "<html><title>" + "&amp;" * 300_000,
        "<html><title>" + "a" * 1_000_000,
        " " * 1_000_000,
        "<!--" + "-" * 1_000_000,
        "<!--" * 300_000,
        "<!---->" * 300_000,
        "<?xml" * 300_000,
        "<!doctype" + " " * 1_000_000,
    ],
    ids=lambda text: text[:20],
)
def test_html_parsing_does_not_block_event_loop(text):
    began = time.perf_counter()
    describe_html(text)
    assert time.perf_counter() - began < 0.1


@pytest.mark.parametrize(
    ("status", "error_class"), [(200, InvalidResponseError), (502, ServerError)]
)
async def test_unescaped_title_does_not_reveal_key(status, error_class):
    key = "sk_<very>&'secret'"
    page = b"<html><title>No sk_&lt;very&gt;&amp;&#x27;secret&#39; here</title>"
    async with (
        raw_server(raw_response(page, status=status)) as server,
        SutroClient(key, base_url=server.url, retry=RetryPolicy(attempts=1)) as client,
    ):
        with pytest.raises(error_class, match=r"No \[api key\] here") as caught:
            await client.get_job_status("job-1")
    assert key not in repr(caught.value.__cause__) + str(vars(caught.value))
