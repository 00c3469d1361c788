"""Reads objects of an S3 server, signed (AWS Signature Version 4), with Python's own library."""
import datetime
import hashlib
import hmac
import urllib.parse
import urllib.request

REGION = "us-east-1"


class Bucket:
    """One bucket at an endpoint such as http://127.0.0.1:9000."""

    def __init__(self, endpoint, name, key, secret):
        self.endpoint, self.name, self.key, self.secret = endpoint, name, key, secret

    def get(self, key):
        """The bytes of an object; urllib.error.HTTPError where there is none."""
        path = urllib.parse.quote(f"/{self.name}/{key}")
        host = urllib.parse.urlsplit(self.endpoint).netloc
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        empty = hashlib.sha256(b"").hexdigest()
        headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp}
        signed = ";".join(headers)
        canonical = "\n".join(["GET", path, "", *(f"{k}:{v}" for k, v in headers.items()), "", signed, empty])
        scope = f"{day}/{REGION}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        secret = ("AWS4" + self.secret).encode()
        for part in (day, REGION, "s3", "aws4_request"):
            secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
        headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={self.key}/{scope}, SignedHeaders={signed}, "
                                    f"Signature={signature}")
        with urllib.request.urlopen(urllib.request.Request(self.endpoint + path, headers=headers), timeout=30) as answer:
            return answer.read()
