"""A plugin whose entry module imports half of the standard library, as one does that does everything in one file."""

from __future__ import annotations

import email.mime.multipart
import http.server
import multiprocessing.pool
import sqlite3
import unittest.mock
import urllib.request
import xml.dom.minidom

from plugins.testkit.tests.mutations.transport_native import LayeredTransport

__all__ = ["CrowdedTransport"]


class CrowdedTransport(LayeredTransport):
    """What it might need some day."""

    tools = (email, http, multiprocessing, sqlite3, unittest, urllib, xml)
