"""An S3 server of this machine for tests: moto, which heeds the conditions of PUTs as S3 does."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """A fresh server with one bucket; the environment that leads to it, which is set inside the block too."""
    pytest.importorskip("moto", reason="moto[server] is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    surroundings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in surroundings.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            # Servers of one process share what they hold: the bucket may be there.
            s3fs.S3FileSystem().makedirs(BUCKET, exist_ok=True)
            yield surroundings
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            gc.collect()  # closes connections
            server.stop()
