"""`Action`: what can be done to a service, and the names of what it is done to, as policies see them."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["SERVICE", "Action", "blob_resource", "job_resource", "model_resource"]

SERVICE = "service"
"""The resource of what is about the service as a whole."""
_LONGEST = 256
"""Longer than the name of any folder, so that no two models are one to a policy."""


class Action(StrEnum):
    """The words that policies decide about. `OTHER` is a path that the service itself does not know."""

    INFER = "infer"
    METADATA = "metadata"
    LOAD = "load"
    UNLOAD = "unload"
    STATS = "stats"
    JOB_READ = "job.read"
    JOB_LIST = "job.list"
    JOB_CANCEL = "job.cancel"
    BLOB_READ = "blob.read"
    BLOB_WRITE = "blob.write"
    METRICS = "metrics"
    DASHBOARD = "dashboard"
    HEALTH = "health"
    OTHER = "other"


def model_resource(name: str, version: str | None = None) -> str:
    """`model:{name}:{version}`; every endpoint is a model here, a function one of version 1. The version is the one that
    answers, whether the caller has asked for it or not, so that a policy for it holds for both."""
    return f"model:{name[:_LONGEST]}:{(version or '1')[:_LONGEST]}"


def job_resource(job_id: str = "*") -> str:
    """`job:{id}`, or `job:*` for the list of them. That only its owner gets at a job is no matter of policy."""
    return f"job:{job_id[:_LONGEST]}"


def blob_resource(sha256: str) -> str:
    """`blob:{sha256}`."""
    return f"blob:{sha256[:_LONGEST]}"
