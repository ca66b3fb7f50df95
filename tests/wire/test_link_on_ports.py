"""The promises of a link, on real pseudo-terminals and real sockets."""

from tests.support.link_contract import LinkContract


class TestLinkOnPty(LinkContract):
    transport = "pty"


class TestLinkOnTcp(LinkContract):
    transport = "tcp"
