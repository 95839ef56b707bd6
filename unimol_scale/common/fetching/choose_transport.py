"""Chooses the transport for a URL: HTTP or an object store. Imports the library of a transport on first use."""

from unimol_scale.common.fetching.transport import Transport
from unimol_scale.errors import SourceError

HTTP_SCHEMES = ("http", "https")
# Scheme → the package through which fsspec reads it.
OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


def transport_for(url: str, connections: int, stall_s: float) -> Transport:
    """Return the transport that fetches a URL.

    Args:
        url: with the scheme http, https, s3, gs or gcs.
        connections: largest number of simultaneous connections; object stores ignore it.
        stall_s: seconds without data after which a connection counts as dead; object stores ignore it.

    Raises:
        SourceError: the scheme is unknown, or its package is not installed.
    """
    scheme = _scheme(url)
    if scheme not in HTTP_SCHEMES and scheme not in OBJECT_STORES:
        known = ", ".join(f"{name}://" for name in (*HTTP_SCHEMES, *OBJECT_STORES))
        raise SourceError(f"{url} is not a URL that can be fetched; valid: {known}")
    return transport_of_any(url, connections, stall_s)[0]


def transport_of_any(url: str, connections: int, stall_s: float) -> tuple[Transport, str]:
    """Return the transport for a URL of any scheme that fsspec knows, and the URL as that transport expects it.

    Raises:
        SourceError: the scheme is unknown, or its package is not installed.
    """
    scheme = _scheme(url)
    if scheme in HTTP_SCHEMES:
        from unimol_scale.common.fetching.http_transport import HttpTransport

        return HttpTransport(connections, stall_s), url
    from unimol_scale.common.fetching.object_transport import ObjectTransport

    try:
        return ObjectTransport.of(url)
    except ImportError as error:
        package = OBJECT_STORES.get(scheme)
        remedy = f"{url} needs the package {package}: pip install {package}" if package else f"{url}: {error}"
        raise SourceError(remedy) from error
    except Exception as error:  # each file system of fsspec raises classes of its own
        raise SourceError(f"{url} cannot be read: {type(error).__name__}: {error}") from error


def _scheme(url: str) -> str:
    return url.split("://", 1)[0].lower()
