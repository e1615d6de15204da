"""Shards that lie elsewhere (http(s), s3, gs, pipes), through a bounded cache that a machine's processes share.

Credentials come from where each kind of location usually has them (~/.netrc; AWS_* variables and profiles;
GOOGLE_APPLICATION_CREDENTIALS; for a pipe, variables of the environment that its command names). They are never part of
a location, a pickle, a message or a log.
"""

from datamodules.remote.locations import Location, is_remote
from datamodules.remote.options import CacheOptions
from datamodules.remote.store import RemoteStore, open_store

__all__ = ["CacheOptions", "Location", "RemoteStore", "is_remote", "open_store"]
