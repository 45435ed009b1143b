#!/bin/bash
# The reference: what draintasker's shell scripts do to one series, without their sleeps and logs.
# Its curl is spared the wait for "100 Continue", which draintasker has learned to avoid.
# draintasker_upload.sh URL FILE...: openssl md5 of each (make-manifests), then one curl -T each (s3-launch-transfers).
set -eu
url=$1
shift
declare -A md5
for file; do
  sum=$(openssl md5 -binary "$file" | base64)
  md5[$file]=$sum
done
for file; do
  code=$(curl --silent --show-error --output /dev/null --write-out '%{http_code}' \
    --header "Expect:" --header "authorization: LOW key:secret" --header "Content-MD5: ${md5[$file]}" \
    --upload-file "$file" "$url/${file##*/}")
  [[ $code == 200 ]] || { echo "$file: $code" >&2; exit 1; }
done
