#!/bin/sh
# Print every message as it comes, and go on behind the last one when started again. Reading acknowledges nothing: use
# this beside a consumer (a log, a screen), or mark what was handled yourself.
#
#   sh follow.sh http://127.0.0.1:8081 API_TOKEN FILE [SECONDS]
#
# FILE keeps the id of the last message seen. Needs curl.
set -eu
api=$1 token=$2 place=$3 seconds=${4:-0}

curl -sSN --max-time "$seconds" "$api/v1/outbox/stream" -H "Authorization: Bearer $token" \
     -H "Last-Event-ID: $(cat "$place" 2>/dev/null || true)" |
while IFS= read -r line; do
  case $line in
    'id: '*) id=${line#id: } ;;
    'data: '*) printf '%s\n' "${line#data: }"; printf '%s' "$id" >"$place" ;;
  esac
done
