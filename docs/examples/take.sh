#!/bin/sh
# Hand every outcome that is waiting to a command, on its standard input, then end: for cron, or a loop with a sleep.
# A message is acknowledged when the command succeeded; otherwise it comes again when its lease has run out.
#
#   sh take.sh http://127.0.0.1:8081 API_TOKEN COMMAND [ARGUMENT…]
#
# Needs curl and sed.
set -eu
api=$1 token=$2
shift 2

ask() { curl -sS --fail-with-body -H "Authorization: Bearer $token" -d "$2" "$api$1"; }

while :; do
  claimed=$(ask /v1/outbox/claim '{"limit": 1, "lease_s": 60}')
  id=$(printf '%s' "$claimed" | sed -n 's/^{"messages":\[{"id":"\([^"]*\)".*/\1/p')
  [ -n "$id" ] || break
  printf '%s' "$claimed" | sed 's/^{"messages":\[//; s/\]}$//' | "$@"
  ask /v1/outbox/ack "{\"ids\": [\"$id\"]}" >/dev/null
done
