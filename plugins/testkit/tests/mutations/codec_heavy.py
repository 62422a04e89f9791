"""What a plugin's module looks like that loads far more than it needs at import."""

import asyncio
import email.mime.text
import http.server
import logging.config
import sqlite3
import xml.dom.minidom
import xmlrpc.client

__all__ = ["asyncio", "email", "http", "logging", "sqlite3", "xml", "xmlrpc"]
