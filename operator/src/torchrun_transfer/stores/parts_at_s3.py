"""Sends a large file to S3 in parts, and goes on with an upload in parts that was killed."""

import hashlib
from collections.abc import Iterable
from typing import Any


class PartsAtS3:
    """One object. S3 shows it once all its parts are there."""

    def __init__(self, fs: Any, bucket: str, key: str) -> None:  # noqa: ANN401 the class of s3fs has no types
        self._fs = fs
        self._object = {"Bucket": bucket, "Key": key}

    def send(self, pieces: Iterable[bytes]) -> None:
        """Send these pieces, each as a part, except those that are there already.

        S3 names a part by its MD5. Where it does not, as with some encryptions, all parts are sent. Raises the errors
        of s3fs, and those of ``pieces``; what was sent then stays, for the next attempt.
        """
        upload, there = self._unfinished()
        if not upload:
            upload = self._fs.call_s3("create_multipart_upload", **self._object)["UploadId"]
        parts = []
        for number, piece in enumerate(pieces, 1):
            tag = there.get(number, "")
            if tag.strip('"') != hashlib.md5(piece, usedforsecurity=False).hexdigest():
                sent = self._fs.call_s3("upload_part", **self._object, UploadId=upload, PartNumber=number, Body=piece)
                tag = sent["ETag"]
            parts.append({"PartNumber": number, "ETag": tag})
        self._fs.call_s3("complete_multipart_upload", **self._object, UploadId=upload, MultipartUpload={"Parts": parts})

    def _unfinished(self) -> tuple[str, dict[int, str]]:
        """Return the newest upload that was not completed, and its parts with their tags. Empty: there is none."""
        try:
            found = self._fs.call_s3(
                "list_multipart_uploads", Bucket=self._object["Bucket"], Prefix=self._object["Key"]
            )
            own = [each for each in found.get("Uploads") or () if each["Key"] == self._object["Key"]]
            if not own:
                return "", {}
            upload = str(max(own, key=lambda each: each["Initiated"])["UploadId"])
            return upload, self._parts(upload)
        except (OSError, KeyError, TypeError):  # a right that an upload does not need, or a store without these lists
            return "", {}

    def _parts(self, upload: str) -> dict[int, str]:
        parts: dict[int, str] = {}
        marker = 0
        while True:
            page = self._fs.call_s3("list_parts", **self._object, UploadId=upload, PartNumberMarker=marker)
            parts |= {int(each["PartNumber"]): str(each["ETag"]) for each in page.get("Parts") or ()}
            if not page.get("IsTruncated"):
                return parts
            marker = int(page["NextPartNumberMarker"])
