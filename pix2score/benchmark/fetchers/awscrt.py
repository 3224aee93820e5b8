"""The AWS Common Runtime's own S3 client, which boto3's transfers use where awscrt is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from pix2score.benchmark.s3_server import BUCKET
from pix2score.images.fetch import NUM_CONCURRENT


def reader(endpoint: str) -> Callable[[Sequence[str]], int]:
    """Reads objects."""
    from awscrt import auth, http, io, s3

    host = urlsplit(endpoint)
    bootstrap = io.ClientBootstrap.get_or_create_static_default()
    client = s3.S3Client(
        bootstrap=bootstrap,
        region="us-east-1",
        signing_config=s3.create_default_s3_signing_config(
            region="us-east-1",
            credential_provider=auth.AwsCredentialsProvider.new_default_chain(bootstrap),
        ),
        tls_mode=s3.S3RequestTlsMode.DISABLED,
        throughput_target_gbps=10,
    )

    def read(keys: Sequence[str]) -> int:
        total = 0

        def count(chunk: bytes, **_: object) -> None:
            nonlocal total
            total += len(chunk)

        for start in range(0, len(keys), NUM_CONCURRENT):
            running = []
            for key in keys[start : start + NUM_CONCURRENT]:
                request = http.HttpRequest("GET", f"/{BUCKET}/{key}")
                request.headers.add("Host", f"{host.hostname}:{host.port}")
                running.append(
                    client.make_request(
                        type=s3.S3RequestType.GET_OBJECT, request=request, on_body=count, part_size=8 * 2**20
                    )
                )
            for one in running:
                one.finished_future.result()
        return total

    return read
